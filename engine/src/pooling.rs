//! From hidden states to embeddings: which rows of a text, whether normalised, and how many channels.

use std::str::FromStr;

use quire_kernels::{Device, gather_rows, mean_rows};

use crate::workspace::Workspace;

/// Which rows of a text its embedding is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingKind {
    /// The first one.
    Cls,
    /// The mean of all (Reimers & Gurevych 2019).
    Mean,
    /// The last one.
    Last,
}

/// How a model's files make embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolingSpec {
    pub kind: PoolingKind,
    /// Embeddings get the length 1.
    pub normalize: bool,
    /// A head makes a logit of what is pooled: texts come in pairs, and there are no embeddings.
    pub scores: Option<ScoreActivation>,
}

/// What makes a score of a reranker's logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreActivation {
    /// The logit is the score.
    None,
    Sigmoid,
}

impl ScoreActivation {
    pub fn of(self, logit: f64) -> f64 {
        match self {
            Self::None => logit,
            Self::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
        }
    }
}

/// What a request wants of an embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolingParams {
    /// Only the first channels (Matryoshka embeddings, Kusupati et al. 2022); in 1..=hidden_size.
    pub dimensions: Option<u32>,
    /// `None`: as the model's files say.
    pub normalize: Option<bool>,
    /// Of a pair for a reranker: the index of the second text's first token.
    pub second_text: Option<u32>,
}

impl PoolingKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Last => "last",
        }
    }
}

impl FromStr for PoolingKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = [Self::Cls, Self::Mean, Self::Last];
        let found = kinds.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| "write cls, mean or last".to_owned())
    }
}

impl PoolingSpec {
    /// The embedding of a pooled row.
    pub fn finish(self, mut row: Vec<f32>, params: PoolingParams) -> Vec<f32> {
        if let Some(dimensions) = params.dimensions {
            row.truncate(dimensions as usize);
        }
        if params.normalize.unwrap_or(self.normalize) {
            let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let length = squares.sqrt();
            // A row of zeros has no direction.
            let factor = if length > 0.0 { 1.0 / length } else { 0.0 };
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        }
        row
    }
}

/// Pools texts of a step; its buffers are kept from step to step.
#[derive(Default)]
pub struct Pooler {
    starts: Vec<u32>,
    ends: Vec<u32>,
}

impl Pooler {
    /// The pooled row of each text, whose hidden states are the rows `start..end` of `ws.hidden`; in order.
    pub fn pool(
        &mut self,
        device: &Device,
        ws: &mut Workspace,
        kind: PoolingKind,
        texts: &[(u32, u32)],
        mut take: impl FnMut(usize, &[f32]),
    ) {
        for (turn, texts) in texts.chunks(ws.gathered.rows()).enumerate() {
            self.starts.clear();
            self.ends.clear();
            self.starts.extend(texts.iter().map(|text| text.0));
            self.ends.extend(texts.iter().map(|text| text.1));
            let out = ws.gathered.first_rows_mut(texts.len());
            let (starts, ends) = ((&self.starts).into(), (&self.ends).into());
            match kind {
                PoolingKind::Mean => mean_rows(device, out, ws.hidden.view(), starts, ends),
                PoolingKind::Cls => gather_rows(device, out, ws.hidden.view(), starts),
                PoolingKind::Last => {
                    self.ends.iter_mut().for_each(|end| *end -= 1);
                    gather_rows(device, out, ws.hidden.view(), (&self.ends).into());
                }
            }
            let (rows, cols) = (ws.gathered.read_f32(), ws.gathered.cols());
            for (index, row) in rows.chunks(cols).take(texts.len()).enumerate() {
                take(turn * ws.gathered.rows() + index, row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_channels_are_normalised_anew() {
        let spec = PoolingSpec { kind: PoolingKind::Cls, normalize: true, scores: None };
        let params = PoolingParams { dimensions: Some(2), ..PoolingParams::default() };
        assert_eq!(spec.finish(vec![3.0, 4.0, 12.0], params), [0.6, 0.8]);
        assert_eq!(spec.finish(vec![0.0, 0.0, 1.0], params), [0.0, 0.0]);
        let raw = PoolingParams { normalize: Some(false), ..PoolingParams::default() };
        assert_eq!(spec.finish(vec![3.0, 4.0], raw), [3.0, 4.0]);
        assert_eq!("mean".parse(), Ok(PoolingKind::Mean));
        assert!("max".parse::<PoolingKind>().is_err());
    }
}
