//! Tensor (owns memory on one device), View and ViewMut (borrow a rectangle of it): rows × cols, row stride.

mod transfer;

use std::marker::PhantomData;
use std::ops::Range;

use crate::cuda::{DeviceBuffer, Pointer};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
    /// As `float8.rs` says.
    F8E4M3,
    U8,
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::U8 => 1,
        }
    }
}

/// Zeroed host memory, aligned to a page. The operating system gives pages when they are first touched, so a large
/// cache costs nothing until it is used.
struct HostBuffer {
    /// `None`: no bytes.
    map: Option<memmap2::MmapMut>,
}

impl HostBuffer {
    /// `None` when there is no such amount of memory.
    fn zeroed(bytes: usize) -> Option<Self> {
        if bytes == 0 {
            return Some(Self { map: None });
        }
        Some(Self { map: Some(memmap2::MmapMut::map_anon(bytes).ok()?) })
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

/// Where the elements of a tensor lie.
enum Storage {
    Host(HostBuffer),
    Cuda(DeviceBuffer),
}

/// A dense `[rows, cols]` matrix that owns its memory. `Device::Trace` makes tensors without memory.
pub struct Tensor {
    storage: Option<Storage>,
    dtype: DType,
    rows: usize,
    cols: usize,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} {}x{})", self.dtype, self.rows, self.cols)
    }
}

impl Tensor {
    /// Zeroed host memory; `None` when the size overflows or memory is short.
    pub fn host(dtype: DType, rows: usize, cols: usize) -> Option<Self> {
        let bytes = rows.checked_mul(cols)?.checked_mul(dtype.size())?;
        let storage = Storage::Host(HostBuffer::zeroed(bytes)?);
        Some(Self { storage: Some(storage), dtype, rows, cols })
    }

    /// The memory of `buffer`, which must have as many bytes.
    pub(crate) fn on_cuda(buffer: DeviceBuffer, dtype: DType, rows: usize, cols: usize) -> Self {
        assert_eq!(buffer.bytes(), rows * cols * dtype.size(), "{dtype:?} {rows}x{cols}");
        Self { storage: Some(Storage::Cuda(buffer)), dtype, rows, cols }
    }

    /// A shape without memory, for `Device::Trace`.
    pub fn shape_only(dtype: DType, rows: usize, cols: usize) -> Self {
        Self { storage: None, dtype, rows, cols }
    }

    /// A host copy of `values` as `[rows, cols]`; `values.len()` must be `rows * cols`.
    pub fn from_f32(values: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values do not fill {rows}x{cols}");
        let mut tensor = Self::host(DType::F32, rows, cols).expect("a copy of live memory fits");
        tensor.bytes_mut().copy_from_slice(as_bytes(values));
        tensor
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether its memory is a GPU's.
    pub(crate) fn is_on_cuda(&self) -> bool {
        matches!(self.storage, Some(Storage::Cuda(_)))
    }

    /// The memory of a tensor on a GPU.
    pub(crate) fn cuda_buffer(&self) -> Option<&DeviceBuffer> {
        match &self.storage {
            Some(Storage::Cuda(buffer)) => Some(buffer),
            _ => None,
        }
    }

    /// As `cuda_buffer`, to be replaced by one of the same bytes.
    pub(crate) fn cuda_buffer_mut(&mut self) -> Option<&mut DeviceBuffer> {
        match &mut self.storage {
            Some(Storage::Cuda(buffer)) => Some(buffer),
            _ => None,
        }
    }

    /// Bytes this tensor occupies.
    pub fn num_bytes(&self) -> usize {
        self.rows * self.cols * self.dtype.size()
    }

    /// All bytes, row after row. Panics on a tensor that is not in host memory.
    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Some(Storage::Host(buffer)) => buffer.bytes(),
            _ => panic!("{self:?} is not in host memory"),
        }
    }

    /// All bytes, row after row. Panics on a tensor that is not in host memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Some(Storage::Host(buffer)) => buffer.bytes_mut(),
            _ => panic!("a tensor is not in host memory"),
        }
    }

    /// All elements of an F32 tensor.
    pub fn f32(&self) -> &[f32] {
        self.view().contiguous_f32()
    }

    /// All elements of an F32 tensor.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.dtype, DType::F32);
        let (ptr, len) = (self.bytes_mut().as_mut_ptr(), self.rows * self.cols);
        // SAFETY: 64-byte aligned, `len` initialised f32, exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(ptr.cast(), len) }
    }

    /// All elements of a U32 tensor.
    pub fn u32(&self) -> &[u32] {
        assert_eq!(self.dtype, DType::U32);
        let (ptr, len) = (self.bytes().as_ptr(), self.rows * self.cols);
        // SAFETY: page-aligned, `len` initialised u32; an empty slice of a buffer without memory is aligned to 1 only.
        if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(ptr.cast(), len) } }
    }

    /// All elements of a U32 tensor.
    pub fn u32_mut(&mut self) -> &mut [u32] {
        assert_eq!(self.dtype, DType::U32);
        let (ptr, len) = (self.bytes_mut().as_mut_ptr(), self.rows * self.cols);
        // SAFETY: as above, exclusively borrowed.
        if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(ptr.cast(), len) } }
    }

    /// The whole tensor.
    pub fn view(&self) -> View<'_> {
        let (data, is_host) = match &self.storage {
            Some(Storage::Host(buffer)) => (buffer.bytes().as_ptr(), true),
            Some(Storage::Cuda(buffer)) => (address_of(buffer).cast_const(), false),
            None => (std::ptr::null(), false),
        };
        View {
            data,
            is_host,
            dtype: self.dtype,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.cols,
            life: PhantomData,
        }
    }

    /// The whole tensor, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let (data, is_host) = match &mut self.storage {
            Some(Storage::Host(buffer)) => (buffer.bytes_mut().as_mut_ptr(), true),
            Some(Storage::Cuda(buffer)) => (address_of(buffer), false),
            None => (std::ptr::null_mut(), false),
        };
        ViewMut {
            data,
            is_host,
            dtype: self.dtype,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.cols,
            life: PhantomData,
        }
    }

    /// The first `rows` rows.
    pub fn first_rows(&self, rows: usize) -> View<'_> {
        self.view().first_rows(rows)
    }

    /// The first `rows` rows, to write.
    pub fn first_rows_mut(&mut self, rows: usize) -> ViewMut<'_> {
        self.view_mut().first_rows(rows)
    }
}

/// An address that only the GPU reads through.
fn address_of(buffer: &DeviceBuffer) -> *mut u8 {
    std::ptr::without_provenance_mut(buffer.address() as usize)
}

/// A read-only rectangle. Only views of host memory are dereferenced here.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: *const u8,
    dtype: DType,
    rows: usize,
    cols: usize,
    row_stride: usize, // elements
    is_host: bool,
    life: PhantomData<&'a [u8]>,
}

// SAFETY: a View is a shared borrow of plain bytes.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// `values` as `[rows, cols]`.
    pub fn from_f32(values: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values do not fill {rows}x{cols}");
        let data = values.as_ptr().cast();
        Self {
            data,
            dtype: DType::F32,
            rows,
            cols,
            row_stride: cols,
            is_host: true,
            life: PhantomData,
        }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The first `rows` rows.
    pub fn first_rows(self, rows: usize) -> Self {
        assert!(rows <= self.rows, "{rows} rows of {}", self.rows);
        Self { rows, ..self }
    }

    /// Columns `range` of every row.
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols, "{range:?} of {}", self.cols);
        let data = self.data.wrapping_add(range.start * self.dtype.size());
        Self { data, cols: range.len(), ..self }
    }

    /// The same elements in rows of another length; rows must lie end to end.
    pub fn reshaped(self, rows: usize, cols: usize) -> Self {
        assert!(
            self.row_stride == self.cols && rows * cols == self.rows * self.cols,
            "{rows}x{cols}"
        );
        Self { rows, cols, row_stride: cols, ..self }
    }

    /// Elements between the beginnings of two rows.
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Where the rectangle begins in the memory of a GPU.
    pub(crate) fn pointer(&self) -> Pointer {
        assert!(!self.is_host, "a tensor in host memory was given to a GPU");
        Pointer(self.data.addr() as u64)
    }

    /// Whether the rectangle begins, and every row of it, at a multiple of `bytes`.
    pub(crate) fn is_aligned_to(&self, bytes: usize) -> bool {
        self.data.addr().is_multiple_of(bytes)
            && (self.row_stride * self.dtype.size()).is_multiple_of(bytes)
    }

    /// Row `row` of an F32 view.
    pub fn row_f32(&self, row: usize) -> &'a [f32] {
        assert!(self.dtype == DType::F32 && row < self.rows && self.is_host);
        // SAFETY: the row lies inside the borrowed memory, which holds initialised f32.
        unsafe {
            std::slice::from_raw_parts(
                self.data.cast::<f32>().add(row * self.row_stride),
                self.cols,
            )
        }
    }

    /// All elements of an F32 view whose rows lie end to end.
    pub fn contiguous_f32(&self) -> &'a [f32] {
        assert!(self.dtype == DType::F32 && self.row_stride == self.cols && self.is_host);
        // SAFETY: rows are contiguous, so all of them form one slice of the borrowed memory.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.rows * self.cols) }
    }
}

/// A rectangle to write; an exclusive borrow.
pub struct ViewMut<'a> {
    data: *mut u8,
    dtype: DType,
    rows: usize,
    cols: usize,
    row_stride: usize, // elements
    is_host: bool,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: a ViewMut is an exclusive borrow of plain bytes.
unsafe impl Send for ViewMut<'_> {}
// SAFETY: sharing &ViewMut gives no write access outside this crate's ops, which split it into disjoint parts.
unsafe impl Sync for ViewMut<'_> {}

impl<'a> ViewMut<'a> {
    /// `values` as `[rows, cols]`.
    pub fn from_f32(values: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values do not fill {rows}x{cols}");
        let data = values.as_mut_ptr().cast();
        Self {
            data,
            dtype: DType::F32,
            rows,
            cols,
            row_stride: cols,
            is_host: true,
            life: PhantomData,
        }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The first `rows` rows.
    pub fn first_rows(self, rows: usize) -> Self {
        assert!(rows <= self.rows, "{rows} rows of {}", self.rows);
        Self { rows, ..self }
    }

    /// Rows `range`.
    pub fn row_range(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "{range:?} of {}", self.rows);
        let data = self.data.wrapping_add(range.start * self.row_stride * self.dtype.size());
        Self { data, rows: range.len(), ..self }
    }

    /// Columns `range` of every row.
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols, "{range:?} of {}", self.cols);
        let data = self.data.wrapping_add(range.start * self.dtype.size());
        Self { data, cols: range.len(), ..self }
    }

    /// As `View::reshaped`.
    pub fn reshaped(self, rows: usize, cols: usize) -> Self {
        assert!(
            self.row_stride == self.cols && rows * cols == self.rows * self.cols,
            "{rows}x{cols}"
        );
        Self { rows, cols, row_stride: cols, ..self }
    }

    /// The same rectangle for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { life: PhantomData, ..*self }
    }

    /// The same rectangle, to read.
    pub fn as_view(&self) -> View<'_> {
        View {
            data: self.data,
            dtype: self.dtype,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            is_host: self.is_host,
            life: PhantomData,
        }
    }

    /// Elements between the beginnings of two rows.
    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Where the rectangle begins in the memory of a GPU.
    pub(crate) fn pointer(&self) -> Pointer {
        self.as_view().pointer()
    }

    /// Whether the rectangle begins, and every row of it, at a multiple of `bytes`.
    pub(crate) fn is_aligned_to(&self, bytes: usize) -> bool {
        self.as_view().is_aligned_to(bytes)
    }

    /// The same rectangle, from now on to read.
    pub fn into_view(self) -> View<'a> {
        let Self { data, dtype, rows, cols, row_stride, is_host, .. } = self;
        View { data, dtype, rows, cols, row_stride, is_host, life: PhantomData }
    }

    /// The same rectangle once more, for workers that write disjoint parts.
    ///
    /// # Safety
    /// No two slices alive at once may overlap.
    pub(crate) unsafe fn alias(&self) -> ViewMut<'a> {
        ViewMut { life: PhantomData, ..*self }
    }

    /// Row `row` of an F32 view.
    pub fn row_f32_mut(&mut self, row: usize) -> &mut [f32] {
        // SAFETY: `self` is borrowed exclusively, so no other slice of it is alive.
        unsafe { self.row_f32_shared(row) }
    }

    /// Row `row` of an F32 view through a shared reference, for workers that write disjoint parts.
    ///
    /// # Safety
    /// No two slices alive at once may overlap: each worker must take rows (or columns) of its own.
    #[allow(clippy::mut_from_ref, reason = "the contract above replaces the borrow checker's")]
    pub(crate) unsafe fn row_f32_shared(&self, row: usize) -> &'a mut [f32] {
        assert!(self.dtype == DType::F32 && row < self.rows && self.is_host);
        // SAFETY: inside the borrowed memory; disjointness is the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.cast::<f32>().add(row * self.row_stride),
                self.cols,
            )
        }
    }

    /// Row `row` of a U8 view through a shared reference, for workers that write disjoint parts.
    ///
    /// # Safety
    /// No two slices alive at once may overlap: each worker must take rows of its own.
    #[allow(clippy::mut_from_ref, reason = "the contract above replaces the borrow checker's")]
    pub(crate) unsafe fn row_u8_shared(&self, row: usize) -> &'a mut [u8] {
        assert!(self.dtype == DType::U8 && row < self.rows && self.is_host);
        // SAFETY: inside the borrowed memory; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.row_stride), self.cols) }
    }

    /// Row `row` of a U32 view through a shared reference, for workers that write disjoint parts.
    ///
    /// # Safety
    /// No two slices alive at once may overlap: each worker must take rows of its own.
    #[allow(clippy::mut_from_ref, reason = "the contract above replaces the borrow checker's")]
    pub(crate) unsafe fn row_u32_shared(&self, row: usize) -> &'a mut [u32] {
        assert!(self.dtype == DType::U32 && row < self.rows && self.is_host);
        // SAFETY: inside the borrowed memory; disjointness is the caller's promise.
        unsafe {
            let first = self.data.cast::<u32>().add(row * self.row_stride);
            std::slice::from_raw_parts_mut(first, self.cols)
        }
    }

    /// First element and row stride of a rectangle of an F32 view, for kernels that write it through pointers.
    pub(crate) fn block_f32(&self, rows: Range<usize>, columns: Range<usize>) -> (*mut f32, usize) {
        assert!(self.dtype == DType::F32 && self.is_host);
        assert!(rows.start <= rows.end && rows.end <= self.rows, "{rows:?} of {}", self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.cols, "{columns:?}");
        let first = rows.start * self.row_stride + columns.start;
        (self.data.cast::<f32>().wrapping_add(first), self.row_stride)
    }

    /// Columns `range` of row `row` of an F32 view through a shared reference, for workers that write disjoint parts.
    ///
    /// # Safety
    /// No two slices alive at once may overlap: each worker must take rows or columns of its own.
    #[allow(clippy::mut_from_ref, reason = "the contract above replaces the borrow checker's")]
    pub(crate) unsafe fn columns_f32_shared(
        &self,
        row: usize,
        range: Range<usize>,
    ) -> &'a mut [f32] {
        assert!(self.dtype == DType::F32 && row < self.rows && self.is_host);
        assert!(range.start <= range.end && range.end <= self.cols, "{range:?} of {}", self.cols);
        // SAFETY: inside the borrowed memory; disjointness is the caller's promise.
        unsafe {
            let first = self.data.cast::<f32>().add(row * self.row_stride + range.start);
            std::slice::from_raw_parts_mut(first, range.len())
        }
    }
}

/// The bytes of a slice of plain numbers.
pub fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding and every byte pattern is a valid u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_keep_the_row_stride() {
        let tensor = Tensor::from_f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3);
        let view = tensor.view().columns(1..3);
        assert_eq!((view.row_f32(0), view.row_f32(1)), (&[2.0, 3.0][..], &[5.0, 6.0][..]));
    }

    #[test]
    fn an_impossible_size_is_none() {
        assert!(Tensor::host(DType::F32, usize::MAX, 2).is_none());
    }
}
