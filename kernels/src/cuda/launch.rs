//! Kernels by name, and their launches: what the host passes is compared with what the kernel was compiled to take.

use std::collections::HashMap;
use std::ffi::CStr;

use cudarc::driver::sys::{
    self, CUfunction, CUfunction_attribute_enum as FunctionAttribute, CUmodule, CUresult,
};

use super::driver::{check, expect};
use super::{Argument, Context, CudaDevice, images};
use crate::device::DeviceError;

/// Arguments that a kernel may have.
const MAX_ARGUMENTS: usize = 32;

/// Dynamic shared memory that a kernel has without asking for it, in bytes.
const PLAIN_SHARED_BYTES: usize = 48 << 10;

/// Where the second dimension of a grid ends.
const MAX_GRID_ROWS: usize = 65_535;

/// Threads of a block that takes elements one by one.
const THREADS: usize = 256;

/// A kernel that is loaded.
pub(super) struct Kernel {
    function: CUfunction,
    /// Bytes of each parameter.
    parameters: Vec<usize>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// Blocks and threads of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub blocks: [usize; 3],
    pub threads: usize,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
}

impl Grid {
    pub(crate) fn new(blocks: usize, threads: usize) -> Self {
        Self { blocks: [blocks, 1, 1], threads, shared_bytes: 0 }
    }

    /// A thread for each `at_once` columns, a column of blocks for each row, of which there may be any number.
    pub(crate) fn of_rows(rows: usize, cols: usize, at_once: usize) -> Self {
        let [columns, ..] = Self::elementwise(1, cols, at_once).blocks;
        Self { blocks: [rows, columns, 1], threads: THREADS, shared_bytes: 0 }
    }

    /// A thread for each `at_once` columns, a row of blocks for each row.
    pub(crate) fn elementwise(rows: usize, cols: usize, at_once: usize) -> Self {
        assert!(rows <= MAX_GRID_ROWS, "{rows} rows in one launch");
        let blocks = [cols.div_ceil(at_once * THREADS), rows, 1];
        Self { blocks, threads: THREADS, shared_bytes: 0 }
    }
}

impl CudaDevice {
    /// Launches the kernel of that name. A grid without blocks launches nothing.
    ///
    /// Panics when there is no such kernel, or when the arguments have other sizes than its parameters.
    pub(crate) fn launch(&self, name: &str, grid: Grid, arguments: &[Argument]) {
        self.launch_blocks(name, grid, arguments, false);
    }

    /// As `launch`: all blocks are on the GPU at the same time, so one may wait for another, or for a block of another GPU.
    pub(crate) fn launch_together(&self, name: &str, grid: Grid, arguments: &[Argument]) {
        self.launch_blocks(name, grid, arguments, true);
    }

    fn launch_blocks(&self, name: &str, grid: Grid, arguments: &[Argument], together: bool) {
        if grid.blocks.contains(&0) {
            return;
        }
        let kernel = self.kernels.get(name);
        let kernel = kernel.unwrap_or_else(|| panic!("this build has no kernel {name}"));
        let sizes = arguments.iter().map(Argument::bytes);
        assert!(
            sizes.clone().eq(kernel.parameters.iter().copied()),
            "{name} takes parameters of {:?} bytes, not {:?}",
            kernel.parameters,
            sizes.collect::<Vec<_>>()
        );
        let mut pointers = [std::ptr::null_mut(); MAX_ARGUMENTS];
        pointers.iter_mut().zip(arguments).for_each(|(to, argument)| *to = argument.address());
        let pointers = pointers.as_mut_ptr();
        let [x, y, z] = grid.blocks.map(|count| u32::try_from(count).expect("a grid fits u32"));
        let (threads, shared_bytes) = (grid.threads as u32, grid.shared_bytes as u32);
        let (function, stream) = (kernel.function, self.context.stream());
        // SAFETY: arguments have the sizes of the parameters, and the driver copies them before it returns. That the
        // kernel stays inside the memory it is given is the op's promise, which its cases check.
        let result = unsafe {
            if grid.shared_bytes > PLAIN_SHARED_BYTES {
                let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                expect(name, sys::cuFuncSetAttribute(function, attribute, shared_bytes as i32));
            }
            if together {
                sys::cuLaunchCooperativeKernel(
                    function,
                    x,
                    y,
                    z,
                    threads,
                    1,
                    1,
                    shared_bytes,
                    stream,
                    pointers,
                )
            } else {
                let extra = std::ptr::null_mut();
                sys::cuLaunchKernel(
                    function,
                    x,
                    y,
                    z,
                    threads,
                    1,
                    1,
                    shared_bytes,
                    stream,
                    pointers,
                    extra,
                )
            }
        };
        expect(name, result);
    }
}

/// Every kernel of this binary, for this GPU.
pub(super) fn load_kernels(context: &Context) -> Result<HashMap<String, Kernel>, DeviceError> {
    context.bind();
    let mut kernels = HashMap::new();
    for &(file, image) in images::ALL {
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is a fat binary, whose header says where it ends.
        let result = unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) };
        match result {
            CUresult::CUDA_SUCCESS => add_kernels(module, &mut kernels)?,
            _ if !images::IS_BUILT => return Err(DeviceError::CudaNotBuilt),
            // A file for other architectures than this one.
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {}
            result => check(&format!("the kernels of {file}"), result)?,
        }
    }
    Ok(kernels)
}

fn add_kernels(module: CUmodule, to: &mut HashMap<String, Kernel>) -> Result<(), DeviceError> {
    let mut count = 0;
    // SAFETY: the module is loaded.
    check("cuModuleGetFunctionCount", unsafe {
        sys::cuModuleGetFunctionCount(&raw mut count, module)
    })?;
    let mut functions = vec![std::ptr::null_mut(); count as usize];
    // SAFETY: the vector has room for so many handles.
    check("cuModuleEnumerateFunctions", unsafe {
        sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module)
    })?;
    for function in functions {
        let mut name = std::ptr::null();
        // SAFETY: a handle of the module.
        check("cuFuncGetName", unsafe { sys::cuFuncGetName(&raw mut name, function) })?;
        // SAFETY: the driver's string lives as long as the module, which is never unloaded.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let parameters = parameters(function);
        assert!(parameters.len() <= MAX_ARGUMENTS, "{name} takes {} arguments", parameters.len());
        to.insert(name, Kernel { function, parameters });
    }
    Ok(())
}

/// Bytes of each parameter: the driver refuses the index behind the last.
fn parameters(function: CUfunction) -> Vec<usize> {
    let size = |index| {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: a handle of a loaded module.
        let result =
            unsafe { sys::cuFuncGetParamInfo(function, index, &raw mut offset, &raw mut bytes) };
        (result == CUresult::CUDA_SUCCESS).then_some(bytes)
    };
    (0..).map_while(size).collect()
}
