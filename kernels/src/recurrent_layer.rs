//! One layer's recurrent states: what `causal_conv` and `gated_delta` read and write.

use crate::cuda::CudaDevice;
use crate::device::{Device, DeviceError};
use crate::indices::{Indices, UploadedIndices};
use crate::tensor::{DType, Tensor, ViewMut};

/// States of F32, each in a numbered slot: the last inputs of the convolution `[taps − 1][channels]`, and a matrix for
/// each value head `[num_value_heads][key_dim][value_dim]`.
#[derive(Debug)]
pub struct RecurrentLayer {
    inputs: Tensor,
    matrices: Tensor,
}

/// Sizes of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateShape {
    /// Weights of the convolution for each channel, that of the present token included.
    pub taps: usize,
    pub channels: usize,
    pub num_value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
}

impl StateShape {
    fn num_inputs(&self) -> usize {
        (self.taps - 1) * self.channels
    }

    fn matrix_len(&self) -> usize {
        self.num_value_heads * self.key_dim * self.value_dim
    }

    /// Bytes of one state in one layer.
    pub fn num_bytes(&self) -> usize {
        (self.num_inputs() + self.matrix_len()) * DType::F32.size()
    }
}

/// Some rows of a step and the states before and after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StateSegment {
    pub first_row: u32,
    /// At least 1.
    pub num_rows: u32,
    /// `NO_STATE`: the sequence begins.
    pub from: u32,
    pub to: u32,
}

impl StateSegment {
    /// Each segment as its four numbers, for an upload.
    pub fn numbers(segments: &[Self]) -> &[u32] {
        let len = segments.len() * Self::NUM_NUMBERS;
        // SAFETY: a segment is four u32 in C's layout, without padding.
        unsafe { std::slice::from_raw_parts(segments.as_ptr().cast(), len) }
    }

    /// Numbers of a segment.
    pub const NUM_NUMBERS: usize = size_of::<Self>() / size_of::<u32>();
}

/// In place of a slot: zeros.
pub const NO_STATE: u32 = u32::MAX;

/// The segments of one call. Those of sequence s are `start_loc[s]..start_loc[s + 1]`: each begins with the row after
/// the one before, and with the state that it left. No sequence writes a slot that another reads or writes.
#[derive(Clone, Copy, Default)]
pub struct StateBatch<'a> {
    segments: &'a [StateSegment],
    numbers: Indices<'a>,
    start_loc: Indices<'a>,
    is_filled_up: bool,
}

impl RecurrentLayer {
    pub fn new(device: &Device, num_slots: usize, shape: &StateShape) -> Result<Self, DeviceError> {
        assert!(shape.taps >= 2 && num_slots > 0 && num_slots < NO_STATE as usize, "{shape:?}");
        Ok(Self {
            inputs: device.allocate(DType::F32, num_slots, shape.num_inputs())?,
            matrices: device.allocate(DType::F32, num_slots, shape.matrix_len())?,
        })
    }

    pub fn num_slots(&self) -> usize {
        self.inputs.rows()
    }

    /// `[num_slots, (taps − 1) · channels]`.
    pub(crate) fn inputs_mut(&mut self) -> ViewMut<'_> {
        self.inputs.view_mut()
    }

    /// `[num_slots, num_value_heads · key_dim · value_dim]`.
    pub(crate) fn matrices_mut(&mut self) -> ViewMut<'_> {
        self.matrices.view_mut()
    }
}

impl<'a> StateBatch<'a> {
    pub fn new(segments: &'a [StateSegment], start_loc: impl Into<Indices<'a>>) -> Self {
        let numbers = StateSegment::numbers(segments).into();
        Self { segments, numbers, start_loc: start_loc.into(), is_filled_up: false }
    }

    /// The same, of segments whose `numbers` a device has.
    #[must_use]
    pub fn with_numbers(self, numbers: Indices<'a>) -> Self {
        assert_eq!(numbers.host(), self.numbers.host(), "the numbers of the segments");
        Self { numbers, ..self }
    }

    /// Whether rows of no sequence may follow, of a step that a graph replays.
    #[must_use]
    pub fn filled_up(self, is_filled_up: bool) -> Self {
        Self { is_filled_up, ..self }
    }

    /// Segments and `start_loc` on `cuda`.
    pub(crate) fn on(&self, cuda: &CudaDevice) -> [UploadedIndices; 2] {
        [self.numbers.on(cuda), self.start_loc.on(cuda)]
    }

    pub fn num_sequences(&self) -> usize {
        self.start_loc.len().saturating_sub(1)
    }

    pub(crate) fn of_sequence(&self, sequence: usize) -> &'a [StateSegment] {
        let (start, end) = (self.start_loc[sequence], self.start_loc[sequence + 1]);
        &self.segments[start as usize..end as usize]
    }

    /// Asserts what the type promises, but for the slots of different sequences.
    pub(crate) fn check(&self, num_rows: usize, num_slots: usize) {
        let is_slot = |slot: u32| (slot as usize) < num_slots;
        let mut next_row = 0;
        for sequence in 0..self.num_sequences() {
            let mut state = None;
            for segment in self.of_sequence(sequence) {
                assert!(
                    segment.num_rows > 0 && segment.first_row == next_row,
                    "segments have gaps"
                );
                assert!(is_slot(segment.to), "a state beyond {num_slots}");
                assert!(
                    segment.from == NO_STATE || is_slot(segment.from),
                    "a state beyond {num_slots}"
                );
                assert!(
                    state.is_none_or(|state| state == segment.from),
                    "a segment skips its state"
                );
                state = Some(segment.to);
                next_row += segment.num_rows;
            }
        }
        let is_whole = next_row as usize == num_rows;
        let is_filled_up = self.is_filled_up && (next_row as usize) < num_rows;
        assert!(is_whole || is_filled_up, "{next_row} of {num_rows} rows have a segment");
    }
}
