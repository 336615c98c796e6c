//! Grouped weights: each layout packed, beside the plain formula, on every instruction set.

use quire_kernels::cases::random_f32;
use quire_kernels::cpu::SimdLevel;
use quire_kernels::linear::reference::linear_row;
use quire_kernels::{
    ActivationPrecision, Device, ExpertInput, ExpertRouting, ExpertWeights, GroupScales,
    GroupedWeight, LinearWeight, Numbers, RouteExperts, RouterScores, RouterSpec, ScaleKind,
    Tensor, View, ViewMut, WeightPolicy, WordLayout, ZeroLayout, Zeros, embedding, expert_linear,
    linear, route_experts,
};

const OUT: usize = 40;
const IN: usize = 288;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Float8,
    Float4,
    Int8,
    Words(usize, WordLayout),
}

/// A layout that checkpoints have, with random bytes.
#[derive(Debug)]
struct Layout {
    kind: Kind,
    scales: ScaleKind,
    /// Features and weights that share a scale.
    shared: (usize, usize),
    transposed: bool,
    zeros: Option<(ZeroLayout, u8)>,
    factor: f32,
    act_order: bool,
}

const PLAIN: Layout = Layout {
    kind: Kind::Float8,
    scales: ScaleKind::F32,
    shared: (1, 128),
    transposed: false,
    zeros: None,
    factor: 1.0,
    act_order: false,
};

fn layouts() -> Vec<Layout> {
    use Kind::{Float4, Int8, Words};
    use ScaleKind::{Bf16, F16, F32, PowerOfTwo};
    let gptq = |zeros, columns, act_order| Layout {
        kind: Words(4, WordLayout::AlongColumns),
        scales: F16,
        shared: (1, columns),
        transposed: true,
        zeros: Some((ZeroLayout::GroupsFirst, zeros)),
        act_order,
        ..PLAIN
    };
    let rows = |bits, columns, scales| Layout {
        kind: Words(bits, WordLayout::AlongRows),
        scales,
        shared: (1, columns),
        ..PLAIN
    };
    vec![
        Layout { shared: (OUT, IN), ..PLAIN },
        Layout { shared: (1, IN), scales: Bf16, ..PLAIN },
        Layout { shared: (32, 128), ..PLAIN },
        Layout { shared: (1, 32), scales: PowerOfTwo, ..PLAIN },
        Layout { kind: Float4, shared: (1, 32), scales: PowerOfTwo, ..PLAIN },
        Layout { kind: Float4, shared: (1, 16), scales: ScaleKind::Float8, factor: 0.3, ..PLAIN },
        Layout { kind: Int8, shared: (1, IN), ..PLAIN },
        Layout { kind: Int8, shared: (OUT, IN), scales: Bf16, ..PLAIN },
        rows(4, 32, Bf16),
        rows(4, 64, F32),
        rows(4, IN, F16),
        rows(8, 96, F16),
        Layout { zeros: Some((ZeroLayout::FeaturesFirst, 0)), ..rows(4, 128, Bf16) },
        Layout { kind: Words(8, WordLayout::AlongColumns), transposed: true, ..rows(8, 128, F16) },
        gptq(0, 128, false),
        gptq(1, 96, true),
        gptq(1, 32, true),
        Layout {
            kind: Words(4, WordLayout::Interleaved),
            zeros: Some((ZeroLayout::Interleaved, 0)),
            ..gptq(0, 32, false)
        },
    ]
}

/// The bytes of a layout.
struct Data {
    numbers: Vec<u8>,
    scales: Vec<u8>,
    zeros: Vec<u8>,
    group_of: Option<Vec<u32>>,
}

fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    random_f32(seed, len).iter().map(|v| ((v + 1.0) * 127.9) as u8).collect()
}

impl Layout {
    fn bits(&self) -> usize {
        match self.kind {
            Kind::Float8 | Kind::Int8 => 8,
            Kind::Float4 => 4,
            Kind::Words(bits, _) => bits,
        }
    }

    fn data(&self) -> Data {
        let groups = IN.div_ceil(self.shared.1);
        let num_scales = OUT.div_ceil(self.shared.0) * groups;
        let mut numbers = random_bytes(1, OUT * IN * self.bits() / 8);
        if let Kind::Float8 = self.kind {
            // No NaN, and about as large as other numbers.
            numbers.iter_mut().for_each(|byte| *byte &= 0xBF);
        }
        let largest = match self.kind {
            Kind::Float8 => 1.9,
            Kind::Float4 => 6.0,
            _ if self.bits() == 8 => 128.0,
            Kind::Int8 | Kind::Words(..) => 8.0,
        };
        let values = random_f32(2, num_scales).into_iter().map(|v| (1.2 + v) / 2.2 / largest);
        let scales = values.flat_map(|value| match self.scales {
            ScaleKind::F32 => value.to_le_bytes().to_vec(),
            ScaleKind::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            ScaleKind::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
            ScaleKind::Float8 => vec![(value * 300.0) as u8 % 0x30],
            ScaleKind::PowerOfTwo => vec![(value.to_bits() >> 23) as u8],
        });
        let group_of = self.act_order.then(|| {
            let mut order: Vec<usize> = (0..IN).collect();
            let keys = random_bytes(3, IN);
            order.sort_by_key(|&k| keys[k]);
            let mut group_of = vec![0; IN];
            order.iter().enumerate().for_each(|(at, &k)| group_of[k] = (at / self.shared.1) as u32);
            group_of
        });
        let zeros = random_bytes(4, OUT * groups / 2);
        Data { numbers, scales: scales.collect(), zeros, group_of }
    }

    fn weight<'a>(&self, data: &'a Data) -> GroupedWeight<'a> {
        let bytes = (&data.numbers).into();
        GroupedWeight {
            out_features: OUT,
            in_features: IN,
            numbers: match self.kind {
                Kind::Float8 => Numbers::Float8(bytes),
                Kind::Float4 => Numbers::Float4(bytes),
                Kind::Int8 => Numbers::Int8(bytes),
                Kind::Words(bits, layout) => Numbers::Words { bits, layout, words: bytes },
            },
            scales: GroupScales {
                bytes: (&data.scales).into(),
                kind: self.scales,
                rows: self.shared.0,
                columns: self.shared.1,
                transposed: self.transposed,
            },
            zeros: self.zeros.map(|(layout, plus)| Zeros {
                bits: 4,
                layout,
                words: (&data.zeros).into(),
                plus,
            }),
            factor: self.factor,
            group_of: data.group_of.clone(),
        }
    }
}

fn dequantized(weight: &GroupedWeight) -> Vec<f32> {
    let mut values = vec![f32::NAN; OUT * IN];
    values.chunks_mut(IN).enumerate().for_each(|(o, row)| weight.dequantize_row(o, row));
    values
}

fn run(device: &Device, weight: &LinearWeight, x: &[f32]) -> Vec<f32> {
    let rows = x.len() / IN;
    let mut out = vec![f32::NAN; rows * weight.out_features()];
    let view = ViewMut::from_f32(&mut out, rows, weight.out_features());
    linear(device, view, View::from_f32(x, rows, IN), weight, None);
    out
}

#[test]
fn packed_weights_have_the_values_of_the_formula() {
    for layout in layouts() {
        let data = layout.data();
        let weight = layout.weight(&data);
        let expected = dequantized(&weight);
        assert!(expected.iter().any(|&value| value != 0.0), "{layout:?}");
        for simd in SimdLevel::available() {
            let device = Device::cpu_with(2, simd);
            for policy in [WeightPolicy::Packed, WeightPolicy::Float32] {
                let table = LinearWeight::from_groups(&device, &weight, policy).expect("it loads");
                if policy == WeightPolicy::Packed {
                    let planned = weight.packed_bytes().expect("a number");
                    assert!(table.num_bytes() == planned, "{layout:?}: {planned} bytes");
                }
                let ids: Vec<u32> = (0..OUT as u32).collect();
                let mut out = Tensor::from_f32(&vec![f32::NAN; OUT * IN], OUT, IN);
                embedding(&device, out.view_mut(), (&ids).into(), (&table, 0), 1.0);
                for (i, (got, want)) in out.f32().iter().zip(&expected).enumerate() {
                    // Scales of float32 times zeros are rounded before numbers are added.
                    let close = (got - want).abs() <= 1e-6 * want.abs();
                    assert!(close, "{layout:?} {simd:?} {policy:?}: [{i}] is {got}, not {want}");
                }
            }
        }
    }
}

#[test]
fn products_are_near_the_formula_and_equal_on_every_machine() {
    let x: Vec<f32> = random_f32(5, 19 * IN).iter().map(|x| 4.0 * x / IN as f32).collect();
    for layout in layouts() {
        let data = layout.data();
        let weight = layout.weight(&data);
        let plain = dequantized(&weight);
        let expected: Vec<f32> = x.chunks(IN).flat_map(|x| linear_row(x, &plain, None)).collect();
        for (precision, tolerance) in
            [(ActivationPrecision::Int8, 3e-3), (ActivationPrecision::Int16, 1.2e-5)]
        {
            let mut bits: Option<Vec<f32>> = None;
            for simd in SimdLevel::available() {
                for threads in [1, 3] {
                    let device = Device::cpu_with(threads, simd);
                    let policy = WeightPolicy::Packed;
                    let weight = LinearWeight::from_groups(&device, &weight, policy)
                        .expect("it loads")
                        .with_activations(precision);
                    let got = run(&device, &weight, &x);
                    for (got, want) in got.iter().zip(&expected) {
                        let close = (got - want).abs() <= tolerance * want.abs().max(1.0);
                        assert!(close, "{layout:?} {precision:?}: {got}, not {want}");
                    }
                    let alone: Vec<f32> =
                        x.chunks(IN).flat_map(|row| run(&device, &weight, row)).collect();
                    assert_eq!(got, alone, "{layout:?}: a batch differs from its rows");
                    // Sums of floats have an order of their own on each machine.
                    if !matches!(layout.kind, Kind::Float8) {
                        assert_eq!(
                            bits.get_or_insert_with(|| got.clone()),
                            &got,
                            "{layout:?} {simd:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_stack_of_parts_with_orders_has_the_bits_of_its_parts() {
    let device = Device::cpu(2);
    let x = random_f32(6, 5 * IN);
    let load = |layout: &Layout| {
        let data = layout.data();
        LinearWeight::from_groups(&device, &layout.weight(&data), WeightPolicy::Packed).unwrap()
    };
    let layouts = layouts();
    let chosen: Vec<&Layout> = layouts.iter().filter(|layout| layout.zeros.is_some()).collect();
    let chosen = [chosen[1], chosen[2], chosen[3]];
    let stack = LinearWeight::stack(chosen.iter().map(|layout| load(layout)).collect());
    let together = run(&device, &stack, &x);
    for (part, layout) in chosen.iter().enumerate() {
        let alone = run(&device, &load(layout), &x);
        let columns = part * OUT..(part + 1) * OUT;
        for (row, alone) in together.chunks(3 * OUT).zip(alone.chunks(OUT)) {
            assert_eq!(&row[columns.clone()], alone, "{layout:?}");
        }
    }
}

#[test]
fn what_does_not_fit_together_is_an_error() {
    let device = Device::cpu(1);
    let layouts = layouts();
    let gptq = layouts.iter().find(|layout| layout.act_order).expect("one is there");
    let error = |spoil: &dyn Fn(&mut Data, &mut Layout)| {
        let mut layout = Layout { ..*gptq };
        let mut data = layout.data();
        spoil(&mut data, &mut layout);
        LinearWeight::from_groups(&device, &layout.weight(&data), WeightPolicy::Packed)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(error(&|_, _| ()), None);
    let expected = |text: &str| Some(text.to_owned());
    assert_eq!(
        error(&|data, _| data.numbers.truncate(100)),
        expected("its numbers have 100 bytes; 40x288 asks for 5760")
    );
    assert_eq!(
        error(&|data, _| data.scales.truncate(7)),
        expected("its scales have 7 bytes; 40x288 asks for 240")
    );
    assert_eq!(
        error(&|data, _| data.zeros.clear()),
        expected("its zeros have 0 bytes; 40x288 asks for 60")
    );
    assert_eq!(
        error(&|data, _| data.group_of.as_mut().unwrap()[5] = 3),
        expected("an input's group is not there")
    );
    assert_eq!(
        error(&|data, _| data.group_of.as_mut().unwrap().fill(1)),
        expected("group 1 has not 96 inputs, as others do")
    );
    assert_eq!(
        error(&|data, _| data.group_of.as_mut().unwrap().truncate(3)),
        expected("groups of 3 inputs")
    );
    assert_eq!(
        error(&|data, layout| {
            layout.shared.1 = 48;
            *data = layout.data();
        }),
        expected("groups of 48 weights are no multiple of 32")
    );
    assert_eq!(
        error(&|data, layout| {
            layout.scales = ScaleKind::Float8;
            *data = layout.data();
        }),
        expected("integers with scales of Float8")
    );
}

#[test]
fn parts_have_the_values_of_the_whole_or_say_which_border_is_in_the_way() {
    for layout in layouts() {
        let data = layout.data();
        let weight = layout.weight(&data);
        let whole = dequantized(&weight);
        // Halves of the inputs begin inside groups of 128, some rows inside groups of 32.
        for (rows, columns) in
            [(8..16, 0..IN), (32..40, 0..IN), (0..OUT, 192..IN), (32..OUT, 96..192), (4..12, 0..32)]
        {
            let part = match weight.part(rows.clone(), columns.clone()) {
                Ok(part) => part,
                Err(error) => {
                    let (text, (shared_rows, shared)) = (error.to_string(), layout.shared);
                    let is_cut = |at: usize, size: usize| !at.is_multiple_of(size);
                    let in_word = matches!(layout.kind, Kind::Words(..)) && is_cut(rows.start, 8);
                    let explained = layout.act_order && columns.len() < IN
                        || is_cut(columns.start, shared)
                        || is_cut(rows.start, shared_rows)
                        || in_word;
                    assert!(explained, "{layout:?}, {rows:?}, {columns:?}: {text}");
                    continue;
                }
            };
            let part = part.weight();
            for (feature, row) in rows.clone().enumerate() {
                let mut values = vec![f32::NAN; columns.len()];
                part.dequantize_row(feature, &mut values);
                let expected = &whole[row * IN..][columns.clone()];
                assert_eq!(values, expected, "{layout:?}, row {row}, {columns:?}");
            }
        }
    }
}

#[test]
fn selected_rows_are_those_of_the_weight() {
    let order: Vec<usize> = (0..OUT).rev().step_by(3).chain([5, 5]).collect();
    let device = Device::cpu(1);
    for layout in layouts() {
        let data = layout.data();
        let weight = layout.weight(&data);
        let selected = weight.select(&order).expect("whole words");
        let rows = selected.weight();
        let (mut got, mut want) = (vec![f32::NAN; IN], vec![f32::NAN; IN]);
        for (place, &row) in order.iter().enumerate() {
            rows.dequantize_row(place, &mut got);
            weight.dequantize_row(row, &mut want);
            assert_eq!(got, want, "{layout:?}: row {row}");
        }
        let loaded = LinearWeight::from_groups(&device, &rows, WeightPolicy::Packed);
        assert_eq!(loaded.expect("it loads").out_features(), order.len(), "{layout:?}");
    }
}

#[test]
fn each_expert_may_have_an_order_of_its_own() {
    let all = layouts();
    let ordered = all.iter().filter(|layout| layout.act_order);
    let plain = all.iter().find(|layout| layout.transposed && !layout.act_order);
    let layouts: Vec<&Layout> = ordered.chain(plain).collect();
    let (num_experts, num_chosen, n) = (layouts.len(), 2, 19);
    assert_eq!(num_experts, 3);
    let spec = RouterSpec {
        num_experts,
        num_chosen,
        scores: RouterScores::Softmax,
        groups: None,
        normalises: true,
        scale: 1.0,
    };
    let (x, logits) = (random_f32(7, n * IN), random_f32(8, n * num_experts));
    for simd in SimdLevel::available() {
        let device = Device::cpu_with(3, simd);
        let load = |layout: &&Layout| {
            let data = layout.data();
            LinearWeight::from_groups(&device, &layout.weight(&data), WeightPolicy::Packed).unwrap()
        };
        let single: Vec<LinearWeight> = layouts.iter().map(load).collect();
        let weights = ExpertWeights::new(layouts.iter().map(load).collect(), None).unwrap();
        let mut routing = ExpertRouting::new(&device, n, num_experts, num_chosen).unwrap();
        let args = RouteExperts { spec: &spec, choice_bias: None, expert_scales: None };
        route_experts(&device, &mut routing, View::from_f32(&logits, n, num_experts), &args);
        let places = n * num_chosen;
        let mut out = vec![f32::NAN; places * OUT];
        let view = ViewMut::from_f32(&mut out, places, OUT);
        let input = ExpertInput::Rows(View::from_f32(&x, n, IN));
        expert_linear(&device, view, input, &weights, &routing);
        for (expert, weight) in single.iter().enumerate() {
            for place in routing.places_of_expert(expert) {
                let row = routing.rows()[place] as usize;
                let expected = run(&device, weight, &x[row * IN..][..IN]);
                assert_eq!(out[place * OUT..][..OUT], expected, "{simd:?}, expert {expert}");
            }
        }
    }
}
