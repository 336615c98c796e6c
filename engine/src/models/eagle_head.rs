//! An EAGLE head: one layer that goes on from the states of a model, a token ahead of them.
//!
//! Row p is given the state of position p and the token of position p + 1, and leaves the state of position p + 1 as it
//! guesses it: the head's vocabulary says which token follows, and row p + 1 goes on from that state and that token.

use anyhow::ensure;
use quire_kernels::{
    Device, KvLayer, LinearWeight, Tensor, View, ViewMut, copy_rows, embedding, gather_rows,
    linear, rms_norm,
};

use super::Vocabulary;
use super::draft_head::{HeadWorkspace, num_rows_up_to};
use super::head_spec::{Features, HeadSpec};
use crate::layers::{Attention, Before, BlockNorm, Mlp, Norm, Positions};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// Weights of a head.
pub struct EagleHead {
    spec: HeadSpec,
    fc: LinearWeight,
    fc_bias: Option<Tensor>,
    /// `None`: that of the model.
    embedding: Option<LinearWeight>,
    /// Before the layer: of the embedding (EAGLE-3), or of the whole row.
    input_norm: Option<Norm>,
    state_norm: Option<Norm>,
    attention: Attention,
    mlp_norm: Norm,
    mlp: Mlp,
    /// `None`: states go into `lm_head` as they are.
    norm: Option<Norm>,
    ones: Norm,
    /// `None`: that of the model.
    lm_head: Option<LinearWeight>,
    positions: Positions,
}

impl EagleHead {
    /// Loads every weight; `max_model_len` positions get a rotation.
    pub fn load(
        spec: HeadSpec,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        let (decoder, scope) = (&spec.decoder, loader.scope("blk.0.".to_owned()));
        let (hidden, vocab_size) = (decoder.hidden_size, decoder.vocab_size);
        let norm = |loader: &WeightLoader, name: &str| {
            let found = loader.has(name).then(|| loader.norm(name, hidden, false)).transpose()?;
            anyhow::Ok(found.map(|weight| Norm { weight, eps: decoder.norm_eps }))
        };
        let is_third = spec.features != Features::Last;
        let (width, fc_width) = match is_third {
            true => (2 * hidden, spec.feature_size()),
            false => (hidden, 2 * hidden),
        };
        let own = |name: &str, rows: usize| {
            let load = || loader.linear(name, rows, hidden);
            loader.has(name).then(load).transpose()
        };
        let lm_head = own("output.weight", vocab_size)?;
        ensure!(
            lm_head.is_some() || spec.to_target.is_none(),
            "the head has tokens of its own (d2t), but no lm_head.weight"
        );
        let layer = &decoder.layers[0];
        Ok(Self {
            fc: loader.linear("fc.weight", hidden, fc_width)?,
            fc_bias: loader.has("fc.bias").then(|| loader.vector("fc.bias", hidden)).transpose()?,
            embedding: own("token_embd.weight", spec.target_vocab_size)?,
            input_norm: norm(&scope, "attn_norm.weight")?,
            state_norm: norm(&scope, "hidden_norm.weight")?,
            attention: Attention::load_of((decoder, layer), width, &scope)?,
            mlp_norm: Norm {
                weight: scope.norm("ffn_norm.weight", hidden, false)?,
                eps: decoder.norm_eps,
            },
            mlp: Mlp::load(decoder, decoder.intermediate_size(), &scope)?,
            norm: norm(loader, "output_norm.weight")?,
            ones: Norm { weight: loader.ones(hidden)?, eps: decoder.norm_eps },
            lm_head,
            positions: Positions::new(decoder, max_model_len, loader.device())?,
            spec,
        })
    }

    pub fn spec(&self) -> &HeadSpec {
        &self.spec
    }

    /// The first rows of `ws.states` from these rows of `ws.features`.
    pub fn fuse(&self, device: &Device, ws: &mut HeadWorkspace, rows: &[u32]) {
        let HeadWorkspace { features, states, embedded, .. } = ws;
        let features = features.first_rows(num_rows_up_to(rows));
        let states = states.first_rows_mut(rows.len());
        match self.spec.features {
            Features::Inputs(_) => {
                let fused = embedded.first_rows_mut(features.rows());
                linear(device, fused, features, &self.fc, self.fc_bias.as_ref());
                gather_rows(device, states, embedded.view(), rows.into());
            }
            Features::Last => gather_rows(device, states, features, rows.into()),
        }
    }

    /// All rows of `step`, from `ws.states` and its tokens; what they leave is in `ws.layer.residual`.
    pub fn forward(
        &self,
        (device, target): (&Device, &Vocabulary),
        ws: &mut HeadWorkspace,
        cache: &mut KvLayer,
        step: &StepInput,
    ) {
        let n = step.num_tokens();
        match &self.embedding {
            Some(table) => {
                let embedded = ws.embedded.first_rows_mut(n);
                embedding(device, embedded, step.token_ids, (table, 0), 1.0);
            }
            None => target.embed(device, ws.embedded.first_rows_mut(n), step.token_ids),
        }
        let at = (step, &self.positions);
        match self.spec.features {
            Features::Inputs(_) => {
                self.normalise(device, ws, n);
                let x = ws.inputs.first_rows(n);
                self.attention.attend_rows(device, &mut ws.layer, x, cache, at);
            }
            Features::Last => {
                self.combine(device, ws, n);
                let x = ws.states.first_rows(n);
                self.attention.attend_rows(device, &mut ws.layer, x, cache, at);
            }
        }
        self.attention.output.project(device, &mut ws.layer, n);
        let before = Before::Block;
        self.mlp.forward(
            device,
            &mut ws.layer,
            n,
            Some(BlockNorm { norm: &self.mlp_norm, before }),
        );
        // Only the sum is of use.
        BlockNorm { norm: &self.ones, before }.apply(device, &mut ws.layer, n);
    }

    /// EAGLE-3: embedding and state, each after its norm, side by side → `ws.inputs`; the state goes on.
    fn normalise(&self, device: &Device, ws: &mut HeadWorkspace, n: usize) {
        let hidden = self.spec.decoder.hidden_size;
        let (first, second) = (0..hidden, hidden..2 * hidden);
        let HeadWorkspace { states, embedded, inputs, layer, .. } = ws;
        put(
            device,
            inputs.first_rows_mut(n).columns(first),
            embedded.first_rows(n),
            self.input_norm.as_ref(),
        );
        let out = inputs.first_rows_mut(n).columns(second.clone());
        put(device, out, states.first_rows(n), self.state_norm.as_ref());
        let kept = match self.spec.norm_before_residual {
            true => inputs.first_rows(n).columns(second),
            false => states.first_rows(n),
        };
        copy_rows(device, layer.residual.first_rows_mut(n), kept);
    }

    /// EAGLE-1 and 2: one row of embedding and state, which goes on and → `ws.states` after its norm, if it has one.
    fn combine(&self, device: &Device, ws: &mut HeadWorkspace, n: usize) {
        let hidden = self.spec.decoder.hidden_size;
        let HeadWorkspace { states, embedded, inputs, layer, .. } = ws;
        copy_rows(device, inputs.first_rows_mut(n).columns(0..hidden), embedded.first_rows(n));
        let second = inputs.first_rows_mut(n).columns(hidden..2 * hidden);
        copy_rows(device, second, states.first_rows(n));
        let residual = layer.residual.first_rows_mut(n);
        linear(device, residual, inputs.first_rows(n), &self.fc, self.fc_bias.as_ref());
        put(
            device,
            states.first_rows_mut(n),
            layer.residual.first_rows(n),
            self.input_norm.as_ref(),
        );
    }

    /// The first `n` rows of `ws.states` → logits over the head's vocabulary, in `ws.layer.logits`.
    pub fn logits(
        &self,
        (device, target): (&Device, &Vocabulary),
        ws: &mut HeadWorkspace,
        n: usize,
    ) {
        let Workspace { gathered, logits, .. } = &mut ws.layer;
        put(device, gathered.first_rows_mut(n), ws.states.first_rows(n), self.norm.as_ref());
        let (out, x) = (logits.first_rows_mut(n), gathered.first_rows(n));
        match &self.lm_head {
            Some(head) => linear(device, out, x, head, None),
            None => target.project(device, out, x),
        }
    }
}

/// `out = norm(x)`, or x.
fn put(device: &Device, out: ViewMut, x: View, norm: Option<&Norm>) {
    match norm {
        Some(Norm { weight, eps }) => rms_norm(device, out, x, weight, *eps),
        None => copy_rows(device, out, x),
    }
}
