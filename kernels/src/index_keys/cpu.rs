//! `index_keys` on the CPU: few numbers, so the caller alone handles them as fast as it could wake others.

use super::IndexKeysArgs;
use crate::device::CpuDevice;
use crate::index_layer::IndexLayer;
use crate::rope_write_kv::rotate_head;
use crate::tensor::View;

/// Most channels of a key.
pub(super) const MAX_HEAD_DIM: usize = 1024;

pub(super) fn index_keys(cpu: &CpuDevice, layer: &mut IndexLayer, x: View, args: &IndexKeysArgs) {
    let head_dim = layer.head_dim();
    let mut key = [0.0; MAX_HEAD_DIM];
    let key = &mut key[..head_dim];
    for row in (0..x.rows()).filter(|&row| args.slot_mapping[row] != u32::MAX) {
        normalise(key, x.row_f32(row), args);
        rotate_head(cpu.simd, key, args.rope, args.positions[row]);
        layer.write(args.slot_mapping[row], key);
    }
}

/// Sums in f64, so that their order is not felt.
fn normalise(key: &mut [f32], x: &[f32], args: &IndexKeysArgs) {
    let count = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let squares = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
    let factor = 1.0 / (squares / count + f64::from(args.eps)).sqrt();
    let vectors = args.weight.f32().iter().zip(args.bias.f32());
    for ((key, &x), (&weight, &bias)) in key.iter_mut().zip(x).zip(vectors) {
        *key = ((f64::from(x) - mean) * factor) as f32 * weight + bias;
    }
}
