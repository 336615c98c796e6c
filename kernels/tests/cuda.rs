//! The kernels on the emulator: every case of every op that has them, in four orders, lazy and eager.

use quire_kernels::{Device, DeviceError, cases, cuda};
use quire_sim::{Emulator, SCHEDULES};

/// A case with more numbers in its output runs in two schedules instead of all.
const LARGE_OUTPUT: usize = 100_000;

fn device(_emulator: &Emulator) -> Device {
    Device::cuda(0).expect("the emulator is a GPU")
}

#[test]
fn every_case_agrees_with_its_reference_in_every_schedule() {
    let emulator = quire_sim::load();
    let device = device(&emulator);
    let mut num_checks = 0;
    for mut case in cases::all() {
        if case.cuda_tolerance.is_nan() {
            continue;
        }
        let step = if case.output_len > LARGE_OUTPUT { 5 } else { 1 };
        for &schedule in SCHEDULES.iter().step_by(step) {
            emulator.run_as(schedule);
            let result = case.check(&device);
            assert_eq!(result, Ok(()), "{schedule:?}");
            num_checks += 1;
        }
    }
    assert!(num_checks > 50, "only {num_checks} checks");
    // Whatever is compiled is launched by its name, but for what steps, probes and several GPUs alone need.
    let others = ["take_tokens", "enter_blocks", "probe_", "one_shot_"];
    let mut idle = emulator.kernels_without_launch();
    idle.retain(|name| !others.iter().any(|other| name.starts_with(other)));
    assert!(idle.is_empty(), "no case launches {idle:?}");
}

#[test]
fn a_gpu_that_is_not_there_is_a_sentence() {
    let _emulator = quire_sim::load();
    let error = Device::cuda(7).err();
    assert_eq!(error, Some(DeviceError::CudaOrdinal { ordinal: 7, count: 1 }));
}

#[test]
fn kernels_stay_in_registers() {
    if !cuda::IS_BUILT {
        println!("nvcc was not found when this was built: run `make cuda-toolchain`");
        return;
    }
    let mut num_kernels = 0;
    for line in cuda::PTXAS_REPORT.lines().filter(|line| line.contains("bytes stack frame")) {
        let clean = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
        assert!(line.contains(clean), "{line}\n{}", cuda::PTXAS_REPORT);
        num_kernels += 1;
    }
    assert!(num_kernels > 0, "ptxas did not report");
    let has_loss = cuda::PTXAS_REPORT.to_lowercase().contains("potential performance loss");
    assert!(!has_loss, "{}", cuda::PTXAS_REPORT);
}
