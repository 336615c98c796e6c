//! Each kernel at the shapes of a real model, beside its floor.

use std::rc::Rc;

use quire_kernels::cases::{Work, random_f32};
use quire_kernels::linear::cases::random_weight_bytes;
use quire_kernels::{
    Activation, AttentionBatch, AttentionSpec, DType, Device, KvLayer, LinearWeight, RopeStyle,
    RopeTable, RopeWriteKv, SampleRow, Sampled, Tensor, WeightFormat, WeightPolicy, add_rms_norm,
    attention, embedding, gated_mul, linear, rope_write_kv, sample,
};
use serde::Serialize;

use super::floors::Floors;
use super::shapes::Shapes;
use super::timing::{Budget, GpuCase, GpuMeasurement, measure};
use super::{Output, cuda_of, uploaded};
use crate::report::{Table, percent, progress, three_digits};

const BLOCK_SIZE: usize = 16;

/// Distinct rows of a weight.
const DISTINCT_ROWS: usize = 64;

/// Quantized formats that have kernels of their own.
const FORMATS: [WeightFormat; 13] = [
    WeightFormat::Q4_0,
    WeightFormat::Q4_1,
    WeightFormat::Q5_0,
    WeightFormat::Q5_1,
    WeightFormat::Q8_0,
    WeightFormat::Q2K,
    WeightFormat::Q3K,
    WeightFormat::Q4K,
    WeightFormat::Q5K,
    WeightFormat::Q6K,
    WeightFormat::Iq4Nl,
    WeightFormat::Iq4Xs,
    WeightFormat::Mxfp4,
];

/// Makes cases, whose memory is given back before the next group is made.
type Group = Box<dyn FnOnce(&Rc<Device>, &Shapes) -> anyhow::Result<Vec<GpuCase>>>;

#[derive(Serialize)]
struct Report<'a> {
    floors: &'a Floors,
    shapes: &'static str,
    measurements: Vec<GpuMeasurement>,
    /// Groups that did not fit, or failed.
    left_out: Vec<String>,
}

pub fn run(
    device: &Rc<Device>,
    output: &Output,
    (shapes, floors, budget): (&Shapes, &Floors, Budget),
    wanted: &[String],
) -> anyhow::Result<()> {
    let (measurements, left_out) = (Vec::new(), Vec::new());
    let mut report = Report { floors, shapes: shapes.name, measurements, left_out };
    for (name, make) in groups(shapes) {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        progress(&format!("{name} ..."));
        match make(device, shapes) {
            Ok(mut cases) => {
                let cuda = cuda_of(device);
                let timed = cases.iter_mut().map(|case| measure(cuda, budget, floors, case));
                report.measurements.extend(timed);
            }
            Err(error) => report.left_out.push(format!("{name}: {error:#}")),
        }
    }
    output.write("kernels", &page(&report), &report)
}

fn page(report: &Report) -> String {
    let columns = ["op", "shape", "µs", "floor µs", "share", "bound by", "spread", "graph"];
    let mut table = Table::new(&columns).with_text_columns(2);
    for line in &report.measurements {
        table.row([
            line.op.into(),
            line.name.clone(),
            three_digits(line.microseconds),
            three_digits(line.floor_microseconds),
            percent(line.share),
            line.bound.into(),
            percent(line.spread),
            if line.is_graph { "yes" } else { "no" }.into(),
        ]);
    }
    let left_out = report.left_out.iter().map(|line| format!("- left out: {line}\n"));
    format!(
        "{}\nThe floor is the larger of bytes over that bandwidth and operations over that rate.\n\n{table}\n{}",
        report.floors.page(),
        left_out.collect::<String>()
    )
}

fn groups(shapes: &Shapes) -> Vec<(String, Group)> {
    let mut groups: Vec<(String, Group)> = vec![("elementwise".into(), Box::new(elementwise))];
    for (name, out_features, in_features) in shapes.products() {
        for format in [WeightFormat::BF16, WeightFormat::Q4K] {
            let rows =
                if format == WeightFormat::BF16 { &shapes.rows } else { &shapes.quantized_rows };
            let most = if name == "head" { 256 } else { usize::MAX };
            let rows = rows.iter().copied().filter(|&rows| rows <= most).collect();
            let shape = (out_features, in_features);
            let group = move |device: &Rc<Device>, shapes: &Shapes| {
                products(device, shapes, name, (format, shape, rows))
            };
            groups.push((format!("linear {name} {format}"), Box::new(group)));
        }
    }
    for format in FORMATS {
        let (name, out_features, in_features) = shapes.products()[2];
        if format == WeightFormat::Q4K {
            continue; // above
        }
        let rows = shapes.quantized_rows.clone();
        let group = move |device: &Rc<Device>, shapes: &Shapes| {
            products(device, shapes, name, (format, (out_features, in_features), rows))
        };
        groups.push((format!("linear {name} {format}"), Box::new(group)));
    }
    let decode = shapes.decode.iter().map(|&(seqs, context)| (seqs, 1, context));
    let prefill = shapes.prefill.iter().map(|&(queries, context)| (1, queries, context));
    for batch in decode.chain(prefill) {
        let group = move |device: &Rc<Device>, shapes: &Shapes| attend(device, shapes, batch);
        groups.push((format!("attention {batch:?}"), Box::new(group)));
    }
    groups.push(("sample".into(), Box::new(sampling)));
    groups
}

fn random(device: &Device, dtype: DType, rows: usize, cols: usize) -> anyhow::Result<Tensor> {
    Ok(device.tensor(dtype, &random_f32((rows + cols) as u64, rows * cols), rows, cols)?)
}

/// Norms, gates, rotations and lookups: bytes alone.
fn elementwise(device: &Rc<Device>, shapes: &Shapes) -> anyhow::Result<Vec<GpuCase>> {
    let (hidden, intermediate) = (shapes.hidden_size, shapes.intermediate_size);
    let mut cases = Vec::new();
    for &rows in shapes.rows.iter().filter(|rows| [1, 20, 32, 256, 4096].contains(rows)) {
        let work = |numbers: usize| Work { bytes: (rows * numbers) as u64, operations: 0 };
        let x = random(device, DType::BF16, rows, hidden)?;
        let weight = random(device, DType::F32, 1, hidden)?;
        let mut residual = random(device, DType::F32, rows, hidden)?;
        let mut out = device.allocate(DType::BF16, rows, hidden)?;
        let on = Rc::clone(device);
        cases.push(GpuCase {
            op: "add_rms_norm",
            name: format!("{rows}x{hidden}"),
            work: work((2 + 4 + 4 + 2) * hidden),
            run: Box::new(move || {
                let residual = residual.view_mut();
                add_rms_norm(&on, out.view_mut(), residual, x.view(), &weight, 1e-5);
            }),
        });
        let gate_up = random(device, DType::BF16, rows, 2 * intermediate)?;
        let mut out = device.allocate(DType::BF16, rows, intermediate)?;
        let on = Rc::clone(device);
        cases.push(GpuCase {
            op: "gated_mul",
            name: format!("{rows}x{intermediate}"),
            work: work(2 * 3 * intermediate),
            run: Box::new(move || {
                gated_mul(&on, out.view_mut(), gate_up.view(), Activation::Silu);
            }),
        });
        cases.push(rotation(device, shapes, rows)?);
        cases.push(lookup(device, shapes, rows)?);
    }
    Ok(cases)
}

fn rotation(device: &Rc<Device>, shapes: &Shapes, rows: usize) -> anyhow::Result<GpuCase> {
    let &Shapes { num_heads, num_kv_heads, head_dim, .. } = shapes;
    let cols = (num_heads + 2 * num_kv_heads) * head_dim;
    let frequencies: Vec<f32> = (0..head_dim / 2).map(|i| 0.9_f32.powi(i as i32)).collect();
    let table = RopeTable::new(&frequencies, 1.0, rows, RopeStyle::Neox);
    let table = table.expect("a table of some kilobytes").copied_to(device)?;
    let blocks = rows.div_ceil(BLOCK_SIZE);
    let mut kv = KvLayer::new(device, DType::BF16, blocks, BLOCK_SIZE, num_kv_heads, head_dim)?;
    let mut qkv = random(device, DType::BF16, rows, cols)?;
    let places: Vec<u32> = (0..rows as u32).collect();
    let (step, on) = (uploaded(device, &[&places])?, Rc::clone(device));
    Ok(GpuCase {
        op: "rope_write_kv",
        name: format!("{rows}x({num_heads}+{num_kv_heads})x{head_dim}"),
        work: Work { bytes: (rows * 2 * 2 * cols) as u64, operations: 0 },
        run: Box::new(move || {
            let args = RopeWriteKv {
                head_dim,
                num_q_heads: num_heads,
                num_kv_heads,
                positions: step.array(0, &places),
                slot_mapping: step.array(0, &places),
                rope: Some(&table),
                norm: None,
            };
            rope_write_kv(&on, qkv.view_mut(), &mut kv, &args);
        }),
    })
}

fn lookup(device: &Rc<Device>, shapes: &Shapes, rows: usize) -> anyhow::Result<GpuCase> {
    let (hidden, vocab) = (shapes.hidden_size, shapes.vocab_size);
    let table = weight(device, WeightFormat::BF16, (vocab, hidden))?;
    let ids: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocab) as u32).collect();
    let mut out = device.allocate(DType::F32, rows, hidden)?;
    let (step, on) = (uploaded(device, &[&ids])?, Rc::clone(device));
    Ok(GpuCase {
        op: "embedding",
        name: format!("{rows}x{hidden}"),
        work: Work { bytes: (rows * 6 * hidden) as u64, operations: 0 },
        run: Box::new(move || {
            embedding(&on, out.view_mut(), step.array(0, &ids), (&table, 0), 1.0);
        }),
    })
}

fn weight(
    device: &Device,
    format: WeightFormat,
    (out_features, in_features): (usize, usize),
) -> anyhow::Result<LinearWeight> {
    let rows = DISTINCT_ROWS.min(out_features);
    let bytes = random_weight_bytes(format, rows, in_features, 7);
    let shape = (out_features, in_features);
    Ok(LinearWeight::repeating(device, format, &bytes, shape, WeightPolicy::Packed)?)
}

/// A product with each number of rows; calls go round among copies of the weight.
fn products(
    device: &Rc<Device>,
    shapes: &Shapes,
    name: &str,
    (format, shape, rows): (WeightFormat, (usize, usize), Vec<usize>),
) -> anyhow::Result<Vec<GpuCase>> {
    let (out_features, in_features) = shape;
    let row_bytes = format.row_bytes(in_features);
    let Some(row_bytes) = row_bytes else {
        anyhow::bail!("rows of {in_features} are not whole blocks")
    };
    let bytes = row_bytes * out_features;
    let copies = shapes.rotation_bytes.div_ceil(bytes).clamp(1, 64);
    let weights: Vec<LinearWeight> =
        (0..copies).map(|_| weight(device, format, shape)).collect::<Result<_, _>>()?;
    let weights = Rc::new(weights);
    let out_dtype = if name == "head" { DType::F32 } else { DType::BF16 };
    let case = |rows: usize| -> anyhow::Result<GpuCase> {
        let x = random(device, DType::BF16, rows, in_features)?;
        let mut out = device.allocate(out_dtype, rows, out_features)?;
        let (on, weights, mut next) = (Rc::clone(device), Rc::clone(&weights), 0);
        let beside = rows * (2 * in_features + out_dtype.size() * out_features);
        Ok(GpuCase {
            op: "linear",
            name: format!("{name} {format} {rows}x{in_features} -> {out_features}"),
            work: Work {
                bytes: (bytes + beside) as u64,
                operations: (2 * rows * in_features * out_features) as u64,
            },
            run: Box::new(move || {
                next = (next + 1) % weights.len();
                linear(&on, out.view_mut(), x.view(), &weights[next], None);
            }),
        })
    };
    rows.into_iter().map(case).collect()
}

/// Pages full of random keys and values.
fn filled_pages(device: &Device, shapes: &Shapes, blocks: usize) -> anyhow::Result<KvLayer> {
    const ROWS_AT_ONCE: usize = 2048;
    let &Shapes { num_kv_heads, head_dim, .. } = shapes;
    let mut kv = KvLayer::new(device, DType::BF16, blocks, BLOCK_SIZE, num_kv_heads, head_dim)?;
    let slots: Vec<u32> = (0..(blocks * BLOCK_SIZE) as u32).collect();
    let rows = ROWS_AT_ONCE.min(slots.len());
    let mut values = random(device, DType::BF16, rows, 3 * num_kv_heads * head_dim)?;
    for slots in slots.chunks(rows) {
        let args = RopeWriteKv {
            head_dim,
            num_q_heads: num_kv_heads,
            num_kv_heads,
            positions: slots.into(),
            slot_mapping: slots.into(),
            rope: None,
            norm: None,
        };
        rope_write_kv(device, values.first_rows_mut(slots.len()), &mut kv, &args);
    }
    Ok(kv)
}

/// Sequences of `context` positions each, of which the last `queries` are asked; calls go round among layers.
fn attend(
    device: &Rc<Device>,
    shapes: &Shapes,
    (seqs, queries, context): (usize, usize, usize),
) -> anyhow::Result<Vec<GpuCase>> {
    let &Shapes { num_heads, num_kv_heads, head_dim, .. } = shapes;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let num_q_heads = num_heads;
    let spec = AttentionSpec {
        num_q_heads,
        num_kv_heads,
        head_dim,
        scale,
        window: None,
        chunk: None,
        softcap: None,
        causal: true,
    };
    let blocks_per_seq = context.div_ceil(BLOCK_SIZE);
    let kv_bytes = 2 * 2 * seqs * context * num_kv_heads * head_dim;
    let copies = shapes.rotation_bytes.div_ceil(kv_bytes).clamp(1, 32);
    let layers: Vec<KvLayer> = (0..copies)
        .map(|_| filled_pages(device, shapes, seqs * blocks_per_seq))
        .collect::<Result<_, _>>()?;
    let starts: Vec<u32> = (0..=seqs).map(|seq| (seq * queries) as u32).collect();
    let lens = vec![context as u32; seqs];
    // Neighbouring blocks of a sequence lie apart, as after a while of serving.
    let tables: Vec<u32> = (0..seqs * blocks_per_seq)
        .map(|entry| (entry / blocks_per_seq + entry % blocks_per_seq * seqs) as u32)
        .collect();
    let rows: Vec<u32> = (0..seqs as u32).collect();
    let step = uploaded(device, &[&starts, &lens, &tables, &rows])?;
    let (num_rows, q_size) = (seqs * queries, num_heads * head_dim);
    let q = random(device, DType::BF16, num_rows, q_size)?;
    let mut out = device.allocate(DType::BF16, num_rows, q_size)?;
    let visible = seqs * (context - queries + 1..=context).sum::<usize>();
    let (on, mut next) = (Rc::clone(device), 0);
    let kind = if queries == 1 { "decode" } else { "prefill" };
    Ok(vec![GpuCase {
        op: "attention",
        name: format!("{kind} {seqs} x ({queries} of {context})"),
        work: Work {
            bytes: (kv_bytes + 2 * 2 * num_rows * q_size) as u64,
            operations: (4 * visible * q_size) as u64,
        },
        run: Box::new(move || {
            next = (next + 1) % layers.len();
            let batch = AttentionBatch {
                query_start_loc: step.array(0, &starts),
                context_lens: step.array(1, &lens),
                block_tables: step.array(2, &tables),
                rows: step.array(3, &rows),
                max_blocks_per_seq: blocks_per_seq,
                replayed_with: None,
                branches: None,
            };
            attention(&on, out.view_mut(), q.view(), &layers[next], &batch, &spec, None);
        }),
    }])
}

/// One token of each row, with what users ask for most. The time holds the way back to the host.
fn sampling(device: &Rc<Device>, shapes: &Shapes) -> anyhow::Result<Vec<GpuCase>> {
    let vocab = shapes.vocab_size;
    let settings = [
        ("greedy", SampleRow::default()),
        (
            "top_k 40, top_p 0.95",
            SampleRow { temperature: 0.8, top_k: 40, top_p: 0.95, ..SampleRow::default() },
        ),
    ];
    let mut cases = Vec::new();
    for rows in [1, 32, 256_usize].into_iter().filter(|rows| rows * vocab <= 1 << 25) {
        for (name, row) in settings {
            let mut logits = random(device, DType::F32, rows, vocab)?;
            let asked = vec![row; rows];
            let (mut out, on) = (vec![Sampled::default(); rows], Rc::clone(device));
            cases.push(GpuCase {
                op: "sample",
                name: format!("{rows}x{vocab} {name}"),
                work: Work { bytes: (4 * rows * vocab) as u64, operations: 0 },
                run: Box::new(move || sample(&on, &mut out, logits.view_mut(), &asked)),
            });
        }
    }
    Ok(cases)
}
