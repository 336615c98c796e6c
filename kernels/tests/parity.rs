//! Every case of every op, on every instruction set this machine has, with one thread and with three.

use quire_kernels::cpu::SimdLevel;
use quire_kernels::{Device, cases};

#[test]
fn every_fast_path_agrees_with_its_reference() {
    for simd in SimdLevel::available() {
        for num_threads in [1, 3] {
            let device = Device::cpu_with(num_threads, simd);
            for mut case in cases::all() {
                if let Err(difference) = case.check(&device) {
                    panic!("{simd:?}, {num_threads} threads: {difference}");
                }
            }
        }
    }
}
