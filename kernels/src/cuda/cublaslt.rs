//! Matrix products of dense weights, by cuBLASLt: its descriptors and algorithms are chosen once for each shape.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t,
    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t,
    cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cublasStatus_t, cudaDataType,
};
use parking_lot::Mutex;

use super::{Context, CudaDevice, DeviceBuffer, Pointer};
use crate::device::DeviceError;
use crate::tensor::DType;

/// Scratch memory of all products, which run one after the other.
const WORKSPACE_BYTES: usize = 32 << 20;

/// `out[n][o] = Σ_k x[n][k] · weight[o][k] + bias[o]`: bf16 in, f32 sums, bf16 or f32 out.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub out: Pointer,
    pub out_dtype: DType,
    pub out_stride: usize,
    pub x: Pointer,
    pub x_stride: usize,
    pub weight: Pointer,
    /// Of the type of `out`.
    pub bias: Option<Pointer>,
    pub rows: usize,
    pub out_features: usize,
    pub in_features: usize,
    /// As many products at once, whose weights lie end to end.
    pub heads: Option<Heads>,
}

/// Columns from one head to the next of x and of the output.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Heads {
    pub count: usize,
    pub x: usize,
    pub out: usize,
}

/// What descriptors depend on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    out_features: usize,
    in_features: usize,
    out_stride: usize,
    x_stride: usize,
    out_dtype: DType,
    has_bias: bool,
    heads: Option<Heads>,
    /// Bytes that weight, x and out are aligned to, at most 256.
    alignments: [u32; 3],
}

/// Descriptors and the algorithm of one shape.
struct Plan {
    operation: cublasLtMatmulDesc_t,
    weight: cublasLtMatrixLayout_t,
    x: cublasLtMatrixLayout_t,
    out: cublasLtMatrixLayout_t,
    algorithm: Algorithm,
}

// SAFETY: descriptors are plain memory of the library.
unsafe impl Send for Plan {}

/// Plans that are kept; a server sees each number of rows sooner or later.
const MAX_PLANS: usize = 4096;

pub(super) struct CublasLt {
    handle: cublasLtHandle_t,
    workspace: DeviceBuffer,
    plans: Mutex<HashMap<Shape, Plan>>,
}

// SAFETY: the handle may be used from any thread.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        // SAFETY: only opens the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoCublasLt);
        }
        context.bind();
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes the handle.
        check("cublasLtCreate", unsafe { sys::cublasLtCreate(&raw mut handle) })?;
        let workspace = DeviceBuffer::zeroed(context, WORKSPACE_BYTES)?;
        Ok(Self { handle, workspace, plans: Mutex::default() })
    }

    fn run(&self, context: &Context, product: &Product) -> Result<(), DeviceError> {
        let mut plans = self.plans.lock();
        let shape = product.shape();
        if plans.len() >= MAX_PLANS && !plans.contains_key(&shape) {
            plans.clear();
        }
        let plan = match plans.entry(shape) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Plan::new(self.handle, &shape)?)
            }
        };
        if let Some(bias) = product.bias {
            set(plan.operation, DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)?;
        }
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (out, workspace) = (address(product.out), address(Pointer(self.workspace.address())));
        // SAFETY: the descriptors describe the memory that the op checked; the library reads the two factors at once.
        check("cublasLtMatmul", unsafe {
            sys::cublasLtMatmul(
                self.handle,
                plan.operation,
                (&raw const one).cast(),
                address(product.weight),
                plan.weight,
                address(product.x),
                plan.x,
                (&raw const zero).cast(),
                out,
                plan.out,
                out,
                plan.out,
                &raw const plan.algorithm,
                workspace,
                self.workspace.bytes(),
                context.stream().cast(),
            )
        })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handle.
        unsafe {
            let _ = sys::cublasLtDestroy(self.handle);
        }
    }
}

impl Product {
    fn shape(&self) -> Shape {
        let (x_step, out_step) = self.heads.map_or((0, 0), |heads| (heads.x, heads.out));
        Shape {
            rows: self.rows,
            out_features: self.out_features,
            in_features: self.in_features,
            out_stride: self.out_stride,
            x_stride: self.x_stride,
            out_dtype: self.out_dtype,
            has_bias: self.bias.is_some(),
            heads: self.heads,
            alignments: [
                alignment(self.weight, [self.in_features, 0], DType::BF16),
                alignment(self.x, [self.x_stride, x_step], DType::BF16),
                alignment(self.out, [self.out_stride, out_step], self.out_dtype),
            ],
        }
    }
}

impl CudaDevice {
    /// Computes `product`; no rows are no work.
    pub(crate) fn multiply(&self, product: &Product) {
        if product.rows == 0 || product.out_features == 0 {
            return;
        }
        if let Err(error) = self.blas.run(&self.context, product) {
            let Product { rows, out_features, in_features, .. } = product;
            panic!("{error} ({rows}x{in_features} -> {out_features})");
        }
    }
}

impl Plan {
    /// The library counts columns first: its out is `[out_features, rows]`.
    fn new(handle: cublasLtHandle_t, shape: &Shape) -> Result<Self, DeviceError> {
        let &Shape { rows, out_features, in_features, out_stride, x_stride, out_dtype, .. } = shape;
        let mut operation = std::ptr::null_mut();
        // SAFETY: writes the handle.
        check("cublasLtMatmulDescCreate", unsafe {
            sys::cublasLtMatmulDescCreate(
                &raw mut operation,
                Compute::CUBLAS_COMPUTE_32F,
                cudaDataType::CUDA_R_32F,
            )
        })?;
        let transposed = 1_i32;
        set(operation, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        if shape.has_bias {
            let epilogue = Epilogue::CUBLASLT_EPILOGUE_BIAS;
            set(operation, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        }
        let out_type = match out_dtype {
            DType::F32 => cudaDataType::CUDA_R_32F,
            _ => cudaDataType::CUDA_R_16BF,
        };
        let bf16 = cudaDataType::CUDA_R_16BF;
        let mut plan = Self {
            operation,
            weight: layout(bf16, in_features, out_features, in_features)?,
            x: layout(bf16, in_features, rows, x_stride)?,
            out: layout(out_type, out_features, rows, out_stride)?,
            algorithm: Algorithm { data: [0; 8] },
        };
        if let Some(Heads { count, x, out }) = shape.heads {
            repeat(plan.weight, count, in_features * out_features)?;
            repeat(plan.x, count, x)?;
            repeat(plan.out, count, out)?;
        }
        plan.algorithm = plan.best_algorithm(handle, shape.alignments)?;
        Ok(plan)
    }

    fn best_algorithm(
        &self,
        handle: cublasLtHandle_t,
        [weight, x, out]: [u32; 3],
    ) -> Result<Algorithm, DeviceError> {
        let mut preference = std::ptr::null_mut();
        let bytes = WORKSPACE_BYTES;
        let mut count = 0;
        let mut found = std::mem::MaybeUninit::<cublasLtMatmulHeuristicResult_t>::zeroed();
        // SAFETY: the descriptors live; the library writes one result and the count, and copies the attribute.
        unsafe {
            check(
                "cublasLtMatmulPreferenceCreate",
                sys::cublasLtMatmulPreferenceCreate(&raw mut preference),
            )?;
            check(
                "cublasLtMatmulPreferenceSetAttribute",
                sys::cublasLtMatmulPreferenceSetAttribute(
                    preference,
                    Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                    (&raw const bytes).cast(),
                    size_of::<usize>(),
                ),
            )?;
            for (attribute, alignment) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, weight),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
            ] {
                let value = (&raw const alignment).cast();
                check(
                    "cublasLtMatmulPreferenceSetAttribute",
                    sys::cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, 4),
                )?;
            }
            let result = sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.operation,
                self.weight,
                self.x,
                self.out,
                self.out,
                preference,
                1,
                found.as_mut_ptr(),
                &raw mut count,
            );
            let _ = sys::cublasLtMatmulPreferenceDestroy(preference);
            check("cublasLtMatmulAlgoGetHeuristic", result)?;
            match count {
                0 => Err(DeviceError::Cuda("cuBLASLt has no algorithm for a product".into())),
                _ => Ok(found.assume_init().algo),
            }
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: nobody else has the handles.
        unsafe {
            let _ = sys::cublasLtMatmulDescDestroy(self.operation);
            for layout in [self.weight, self.x, self.out] {
                let _ = sys::cublasLtMatrixLayoutDestroy(layout);
            }
        }
    }
}

fn layout(
    dtype: cudaDataType,
    rows: usize,
    columns: usize,
    stride: usize,
) -> Result<cublasLtMatrixLayout_t, DeviceError> {
    let mut layout = std::ptr::null_mut();
    // SAFETY: writes the handle.
    check("cublasLtMatrixLayoutCreate", unsafe {
        let (rows, columns, stride) = (rows as u64, columns as u64, stride as i64);
        sys::cublasLtMatrixLayoutCreate(&raw mut layout, dtype, rows, columns, stride)
    })?;
    Ok(layout)
}

/// So many matrices, each `step` elements behind the one before.
fn repeat(layout: cublasLtMatrixLayout_t, count: usize, step: usize) -> Result<(), DeviceError> {
    let (count, step) = (count as i32, step as i64);
    // SAFETY: the library copies so many bytes.
    unsafe {
        let attribute = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
        let value = (&raw const count).cast();
        let status = sys::cublasLtMatrixLayoutSetAttribute(layout, attribute, value, 4);
        check("cublasLtMatrixLayoutSetAttribute", status)?;
        let attribute = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
        let value = (&raw const step).cast();
        let status = sys::cublasLtMatrixLayoutSetAttribute(layout, attribute, value, 8);
        check("cublasLtMatrixLayoutSetAttribute", status)
    }
}

fn set<T>(
    operation: cublasLtMatmulDesc_t,
    attribute: DescAttribute,
    value: &T,
) -> Result<(), DeviceError> {
    // SAFETY: the library copies so many bytes.
    check("cublasLtMatmulDescSetAttribute", unsafe {
        let value: *const T = value;
        sys::cublasLtMatmulDescSetAttribute(operation, attribute, value.cast(), size_of::<T>())
    })
}

/// What the beginning of every row is a multiple of, in bytes, at most 256.
fn alignment(pointer: Pointer, strides: [usize; 2], dtype: DType) -> u32 {
    let bits = pointer.0 | ((strides[0] | strides[1]) * dtype.size()) as u64 | 256;
    1 << bits.trailing_zeros()
}

fn address(pointer: Pointer) -> *mut c_void {
    std::ptr::without_provenance_mut(pointer.0 as usize)
}

fn check(what: &str, status: cublasStatus_t) -> Result<(), DeviceError> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        status => Err(DeviceError::Cuda(format!("{what}: {status:?}"))),
    }
}
