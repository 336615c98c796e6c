//! Ranks that meet: sums and columns are those of a plain loop, and a rank that fails or hangs stops the others. On CPUs, and
//! on GPUs of the emulator.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use quire_kernels::cases::{random_activations, random_f32};
use quire_kernels::linear::cases::random_weight_bytes;
use quire_kernels::{
    DType, Device, GroupId, LinearWeight, RankGroup, Tensor, WeightFormat, WeightPolicy,
    all_reduce, dequantize_row, embedding, gather_columns,
};
use quire_sim::SCHEDULES;

const LONG: Duration = Duration::from_secs(60);

/// Runs `work` on a thread for each rank, and gives what each made.
fn on_ranks<T: Send>(
    num_ranks: usize,
    deadline: Duration,
    work: impl Fn(&Device, &RankGroup) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = |group: RankGroup| {
            let work = &work;
            scope.spawn(move || work(&Device::cpu(1 + group.rank()), &group))
        };
        let threads: Vec<_> = RankGroup::new(num_ranks, deadline).into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

#[test]
fn every_rank_gets_the_same_sum() {
    let (num_ranks, rows, cols) = (3, 5, 1500);
    let of_rank = |rank: usize| random_f32(rank as u64 + 1, rows * cols);
    let all: Vec<Vec<f32>> = (0..num_ranks).map(of_rank).collect();
    let expected = quire_kernels::all_reduce::reference::all_reduce(&all);
    let found = on_ranks(num_ranks, LONG, |device, group| {
        let mut x = Tensor::from_f32(&of_rank(group.rank()), rows, cols);
        all_reduce(device, group, x.view_mut());
        x.f32().to_vec()
    });
    assert!(found.iter().all(|found| *found == expected));
}

#[test]
fn the_first_rank_gets_the_columns_of_all() {
    let (rows, cols) = (3, 101);
    let columns = |rank: usize| [0..40, 40..41, 41..101][rank].clone();
    let found = on_ranks(3, LONG, |device, group| {
        let values = vec![group.rank() as f32 + 1.0; rows * cols];
        let mut x = Tensor::from_f32(&values, rows, cols);
        gather_columns(device, group, x.view_mut(), columns(group.rank()));
        x.f32().to_vec()
    });
    for (index, &value) in found[0].iter().enumerate() {
        let made_by = (0..3).find(|&rank| columns(rank).contains(&(index % cols)));
        assert_eq!(Some(value as usize - 1), made_by, "element {index}");
    }
    assert!(found[1].iter().all(|&value| value == 2.0), "other ranks keep what they had");
}

#[test]
fn ranks_meet_again_and_again() {
    let sums = on_ranks(2, LONG, |device, group| {
        let mut x = Tensor::from_f32(&[1.0; 5], 1, 5);
        for _ in 0..100 {
            all_reduce(device, group, x.view_mut());
            x.f32_mut().iter_mut().for_each(|value| *value /= 2.0);
        }
        x.f32().to_vec()
    });
    assert!(sums.iter().flatten().all(|&value| value == 1.0));
}

/// The text of the panic of an all-reduce.
fn reduce_and_panic(device: &Device, group: &RankGroup) -> Option<String> {
    let mut x = Tensor::from_f32(&[1.0; 5], 1, 5);
    let step = AssertUnwindSafe(|| all_reduce(device, group, x.view_mut()));
    let payload = catch_unwind(step).err()?;
    Some(payload.downcast_ref::<String>().expect("a text").clone())
}

#[test]
fn a_rank_that_fails_stops_the_others_and_all_can_go_on() {
    let again = Barrier::new(2);
    let found = on_ranks(2, LONG, |device, group| {
        let text = if group.rank() == 0 {
            reduce_and_panic(device, group)
        } else {
            group.fail("planted");
            None
        };
        again.wait();
        if group.rank() == 0 {
            group.reset();
        }
        again.wait();
        assert_eq!(reduce_and_panic(device, group), None, "after the reset");
        text
    });
    assert_eq!(found[0].as_deref(), Some("rank 1: planted"));
}

#[test]
fn after_a_failure_nobody_meets_before_the_reset() {
    let again = Barrier::new(2);
    let found = on_ranks(2, Duration::from_millis(50), |device, group| {
        // The first rank waits in vain; the second comes late.
        let first = (group.rank() == 0).then(|| reduce_and_panic(device, group));
        again.wait();
        let second = reduce_and_panic(device, group);
        again.wait();
        (first.flatten(), second)
    });
    let text = "rank 0: another rank did not come within 50ms";
    assert_eq!(found[0], (Some(text.into()), Some(text.into())));
    assert_eq!(found[1], (None, Some(text.into())));
}

#[test]
fn nobody_waits_longer_than_the_deadline() {
    let start = Instant::now();
    let found = on_ranks(2, Duration::from_millis(50), |device, group| match group.rank() {
        0 => reduce_and_panic(device, group),
        _ => None,
    });
    let text = found[0].as_deref().expect("rank 0 waited in vain");
    assert_eq!(text, "rank 0: another rank did not come within 50ms");
    assert!(start.elapsed() < LONG);
}

#[test]
fn ranks_with_shares_of_a_table_add_up_to_the_embedding() {
    let (vocabulary, hidden) = (23, 64);
    let ids: Vec<u32> = vec![0, 22, 7, 8, 8, 15, 14];
    let bytes = random_weight_bytes(WeightFormat::Q8_0, vocabulary, hidden, 5);
    let row_bytes = bytes.len() / vocabulary;
    let of_rows = |device: &Device, rows: Range<usize>| {
        let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
        let (format, policy) = (WeightFormat::Q8_0, WeightPolicy::Packed);
        let table = LinearWeight::from_gguf(device, format, bytes, rows.len(), hidden, policy);
        let mut out = Tensor::from_f32(&vec![f32::NAN; ids.len() * hidden], ids.len(), hidden);
        let table = (&table.expect("valid"), rows.start);
        embedding(device, out.view_mut(), (&ids).into(), table, 2.0);
        out
    };
    let mut values = vec![0.0; vocabulary * hidden];
    dequantize_row(WeightFormat::Q8_0, &bytes, &mut values);
    for (rank, rows) in [0..8, 8..15, 15..23].into_iter().enumerate() {
        let table = (&values[rows.start * hidden..rows.end * hidden], rows.start);
        let expected = quire_kernels::embedding::reference::embedding(&ids, table, hidden, 2.0);
        assert_eq!(of_rows(&Device::cpu(1), rows).f32(), expected, "rank {rank}");
    }
    let found = on_ranks(3, LONG, |device, group| {
        let rows = [0..8, 8..15, 15..23][group.rank()].clone();
        let mut out = of_rows(device, rows);
        all_reduce(device, group, out.view_mut());
        out.f32().to_vec()
    });
    assert!(found.iter().all(|found| found == of_rows(&Device::cpu(1), 0..23).f32()));
}

/// On GPUs of their own.
fn on_gpus<T: Send>(num_ranks: usize, work: impl Fn(&Device, &RankGroup) -> T + Sync) -> Vec<T> {
    on_prepared_gpus(num_ranks, |_| {}, work)
}

fn on_prepared_gpus<T: Send>(
    num_ranks: usize,
    prepare: impl Fn(&mut Device) + Sync,
    work: impl Fn(&Device, &RankGroup) -> T + Sync,
) -> Vec<T> {
    let id = GroupId::new().expect("the emulator has NCCL");
    std::thread::scope(|scope| {
        let run = |group: RankGroup| {
            let (prepare, work) = (&prepare, &work);
            scope.spawn(move || {
                let mut device = Device::cuda(group.rank()).expect("a GPU for each rank");
                prepare(&mut device);
                let group = group.on_gpu(&device, id).expect("all ranks come");
                work(&device, &group)
            })
        };
        let threads: Vec<_> = RankGroup::new(num_ranks, LONG).into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

/// What three GPUs make of random numbers, added up once, and twice by a graph; next to what it should be.
fn three_gpus_add_up(dtype: DType, cols: usize, round_each_sum: bool) {
    let rows = 5;
    let of_rank = |rank: usize, call: u64| random_activations(7 * call + rank as u64, rows * cols);
    let found = on_gpus(3, |device, group| {
        let Device::Cuda(cuda) = device else { unreachable!("it was opened as one") };
        let of_call = |call| {
            let values = of_rank(group.rank(), call);
            device.tensor(dtype, &values, rows, cols).expect("small")
        };
        let mut x = of_call(0);
        all_reduce(device, group, x.view_mut());
        let once = x.read_f32();
        let mut x = of_call(1);
        let graph = cuda.record(|| all_reduce(device, group, x.view_mut()));
        graph.launch();
        graph.launch();
        let twice = x.read_f32();
        assert_eq!(group.check_gpu(), Ok(()));
        [once, twice]
    });
    let round = |x: f32| if dtype == DType::BF16 { half::bf16::from_f32(x).to_f32() } else { x };
    let sum_of = |ranks: [Vec<f32>; 3]| -> Vec<f32> {
        let [a, b, c] = ranks;
        let of_two = |sum: f32| if round_each_sum { round(sum) } else { sum };
        (0..rows * cols).map(|i| round(of_two(a[i] + b[i]) + c[i])).collect()
    };
    let once = sum_of([0, 1, 2].map(|rank| of_rank(rank, 0)));
    let sum = sum_of([0, 1, 2].map(|rank| of_rank(rank, 1)));
    let twice = sum_of([sum.clone(), sum.clone(), sum]);
    assert!(found.iter().all(|found| *found == [once.clone(), twice.clone()]), "{dtype:?} {cols}");
}

#[test]
fn gpus_add_up_at_once_and_in_graphs() {
    let emulator = quire_sim::load();
    emulator.plug_in(3);
    for (schedule, dtype) in
        SCHEDULES.into_iter().zip([DType::F32, DType::BF16].into_iter().cycle())
    {
        emulator.run_as(schedule);
        emulator.run_streams(Some(schedule.1));
        // Not a multiple of 16 bytes, so NCCL's; then in one launch.
        three_gpus_add_up(dtype, 130, true);
        let before = (emulator.num_sums(), emulator.num_launches_together());
        three_gpus_add_up(dtype, 136, false);
        let after = (emulator.num_sums(), emulator.num_launches_together());
        assert_eq!(after, (before.0, before.1 + 6), "two sums of three ranks");
    }
}

#[test]
fn gpus_that_do_not_reach_each_other_add_up_all_the_same() {
    let emulator = quire_sim::load();
    emulator.plug_in(3);
    emulator.connect(false);
    let before = emulator.num_launches_together();
    three_gpus_add_up(DType::BF16, 136, true);
    assert_eq!(emulator.num_launches_together(), before);
}

/// Three, so a sum is not the same in another order; and more than one launch takes.
#[test]
fn a_long_sum_has_the_order_of_a_short_one_where_batches_must_not_matter() {
    let emulator = quire_sim::load();
    emulator.plug_in(3);
    let (rows, cols) = (3, 50_000);
    let of_rank = |rank: usize| {
        let scale = 10.0_f32.powi(3 * rank as i32);
        let values = random_f32(rank as u64 + 1, rows * cols);
        values.into_iter().map(|x| x * scale).collect::<Vec<_>>()
    };
    let expected = quire_kernels::all_reduce::reference::all_reduce(&[0, 1, 2].map(of_rank));
    let before = emulator.num_sums();
    let prepare = |device: &mut Device| match device {
        Device::Cuda(cuda) => cuda.set_batch_invariant(),
        _ => unreachable!("it was opened as one"),
    };
    let found = on_prepared_gpus(3, prepare, |device, group| {
        let values = of_rank(group.rank());
        let mut x = device.tensor(DType::F32, &values, rows, cols).expect("small");
        all_reduce(device, group, x.view_mut());
        x.read_f32()
    });
    assert!(found.iter().all(|found| *found == expected));
    assert_eq!(emulator.num_sums(), before, "none by NCCL");
}

#[test]
fn every_gpu_gets_the_columns_of_all() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    let (rows, cols) = (3, 101);
    let found = on_gpus(2, |device, group| {
        let values = vec![group.rank() as f32 + 1.0; rows * cols];
        let mut x = device.tensor(DType::F32, &values, rows, cols).expect("small");
        gather_columns(device, group, x.view_mut(), [0..48, 48..101][group.rank()].clone());
        x.read_f32()
    });
    let expected: Vec<f32> =
        (0..rows * cols).map(|index| if index % cols < 48 { 1.0 } else { 2.0 }).collect();
    assert!(found.iter().all(|found| *found == expected));
}

#[test]
fn a_gpu_that_waits_in_vain_is_called_off() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    // By NCCL, and in a launch.
    for cols in [5, 8] {
        let waits = Barrier::new(2);
        let found = on_gpus(2, |device, group| {
            if group.rank() == 1 {
                waits.wait();
                std::thread::sleep(Duration::from_millis(20));
                group.fail("planted");
                return None;
            }
            let mut x = device.tensor(DType::F32, &vec![1.0; cols], 1, cols).expect("small");
            let step = AssertUnwindSafe(|| {
                all_reduce(device, group, x.view_mut());
                waits.wait();
                x.read_f32()
            });
            let _ = catch_unwind(step);
            group.check_gpu().err()
        });
        assert_eq!(found[0].as_deref(), Some("rank 1: planted"));
    }
}

#[test]
fn gpus_with_shares_of_a_table_add_up_to_the_embedding() {
    let emulator = quire_sim::load();
    emulator.plug_in(2);
    let (vocabulary, hidden) = (23, 64);
    let ids: Vec<u32> = vec![0, 22, 7, 8, 8, 15, 14];
    for format in [WeightFormat::Q8_0, WeightFormat::BF16] {
        let bytes = random_weight_bytes(format, vocabulary, hidden, 5);
        let row_bytes = bytes.len() / vocabulary;
        let mut values = vec![0.0; vocabulary * hidden];
        dequantize_row(format, &bytes, &mut values);
        let found = on_gpus(2, |device, group| {
            let rows = [0..16, 16..23][group.rank()].clone();
            let part = &bytes[rows.start * row_bytes..rows.end * row_bytes];
            let policy = WeightPolicy::Packed;
            let table = LinearWeight::from_gguf(device, format, part, rows.len(), hidden, policy);
            let nan = vec![f32::NAN; ids.len() * hidden];
            let mut out = device.tensor(DType::F32, &nan, ids.len(), hidden).expect("small");
            let table = (&table.expect("valid"), rows.start);
            embedding(device, out.view_mut(), (&ids).into(), table, 2.0);
            all_reduce(device, group, out.view_mut());
            out.read_f32()
        });
        let table = (&values[..], 0);
        let expected = quire_kernels::embedding::reference::embedding(&ids, table, hidden, 2.0);
        assert!(found.iter().all(|found| *found == expected), "{format}");
    }
}
