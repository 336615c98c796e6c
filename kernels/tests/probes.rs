//! The emulator's instructions against the PTX manual, in every schedule. `make gpu` runs the same on silicon.

use quire_kernels::Device;
use quire_kernels::cuda::probes::PROBES;
use quire_sim::SCHEDULES;

#[test]
fn the_emulator_does_what_the_manual_says() {
    let emulator = quire_sim::load();
    let Ok(Device::Cuda(cuda)) = Device::cuda(0) else { panic!("the emulator is a GPU") };
    for probe in PROBES {
        assert!(probe.runs_on(&cuda), "{}: the emulator is a Hopper", probe.name);
        for schedule in SCHEDULES {
            emulator.run_as(schedule);
            for finding in probe.run(&cuda) {
                let (difference, what) = (finding.difference(), &finding.what);
                assert_eq!(difference, None, "{} {what}, {schedule:?}", probe.name);
            }
        }
    }
}
