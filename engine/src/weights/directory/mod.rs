//! Model directories as Hugging Face lays them out: config.json and safetensors, one file or several.

mod config;
mod declared;
mod encoder_names;
mod head_names;
mod names;
mod sentence;
mod shards;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use quire_kernels::{FileBytes, GroupedWeight};

use super::quantized::{Method, Piece, Pieces, Role, role};
use super::quoted;
use super::safetensors::{SafetensorsFile, TensorInfo, weight_format};
use super::{HostTensor, WeightSource};
use encoder_names::EncoderNames;
use head_names::HeadNames;
use names::{Meaning, Prefixes};

pub use config::{ConfigSection, ModelConfig};
pub use sentence::SentenceConfig;

/// Model types whose norms multiply with 1 + w. Converters to GGUF add the 1.
const CENTRED_NORMS: [&str; 4] = ["gemma", "gemma2", "gemma3", "gemma3_text"];

/// One model: its configuration, and its tensors under the names that the loader asks for.
pub struct ModelDirectory {
    path: PathBuf,
    config: ModelConfig,
    files: Vec<SafetensorsFile>,
    names: Names,
    /// Norms have the distance of their weights to 1.
    has_centred_norms: bool,
    /// Sorted by the loader's name.
    tensors: Vec<NamedTensor>,
    /// How weights are quantized that have parts.
    method: Option<Method>,
    /// The quantized weights by the loader's name.
    quantized: BTreeMap<String, QuantizedWeight>,
    /// Tensors of the text model whose meaning is not known, as the files name them.
    unknown: Vec<String>,
    /// There are no files: the configuration says which tensors there would be.
    is_declared: bool,
}

/// How the checkpoint names its tensors.
enum Names {
    Decoder(Prefixes),
    Encoder(EncoderNames),
    Head(HeadNames),
}

impl Names {
    fn find(config: &ModelConfig, has_tensor: impl Fn(&str) -> bool) -> anyhow::Result<Self> {
        let model_type = config.text().string("model_type")?.unwrap_or_default();
        let encoder = EncoderNames::find(model_type, config.is_classifier(), &has_tensor);
        Ok(match (encoder, HeadNames::find(&has_tensor)) {
            (Some(names), _) => Self::Encoder(names),
            (None, Some(names)) => Self::Head(names),
            (None, None) => Self::Decoder(Prefixes::find(has_tensor)),
        })
    }

    fn meaning(&self, name: &str) -> Meaning {
        match self {
            Self::Decoder(prefixes) => prefixes.meaning(name),
            Self::Encoder(names) => names.meaning(name),
            Self::Head(names) => names.meaning(name),
        }
    }

    fn name_in_file(&self, name: &str) -> String {
        match self {
            Self::Decoder(prefixes) => prefixes.name_in_file(name),
            Self::Encoder(names) => names.name_in_file(name),
            Self::Head(names) => names.name_in_file(name),
        }
    }
}

struct NamedTensor {
    /// What the loader calls it.
    name: String,
    file: usize,
    info: TensorInfo,
    /// Someone asked for its data.
    is_used: AtomicBool,
}

/// What lies beside the tensor `….weight` of a quantized weight.
#[derive(Default)]
struct QuantizedWeight {
    parts: Vec<WeightPart>,
    /// Someone asked for it.
    is_used: AtomicBool,
}

/// A tensor that belongs to a quantized weight.
struct WeightPart {
    part: &'static str,
    file: usize,
    info: TensorInfo,
}

impl ModelDirectory {
    /// Opens the directory's configuration and weights. What is left out is said here, in one line.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let config = ModelConfig::open(path)?;
        let files = shards::open_all(path)?;
        let has_tensor = |name: &str| files.iter().any(|file| file.tensor(name).is_some());
        let names = Names::find(&config, has_tensor)?;
        let method = quantization(path, &config)?;
        let text = config.text();
        let has_centred_norms =
            text.string("model_type")?.is_some_and(|name| CENTRED_NORMS.contains(&name));
        let num_layers = text.optional_dimension("num_hidden_layers")?;
        // Layers behind the last one write drafts.
        let num_layers = match text.optional_dimension("num_nextn_predict_layers")? {
            Some(_) => num_layers.unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        let (mut tensors, mut unknown, mut num_skipped) = (Vec::new(), Vec::new(), 0_usize);
        let mut quantized = BTreeMap::new();
        for (file, info) in
            files.iter().enumerate().flat_map(|(at, f)| f.tensors().iter().map(move |t| (at, t)))
        {
            let role = if method.is_some() { role(&info.name) } else { Role::Other };
            let (name, part) = match &role {
                Role::NotNeeded => continue,
                Role::Part { weight, part } => (weight, Some(*part)),
                Role::Other => (&info.name, None),
            };
            let info = info.clone();
            match names.meaning(name) {
                Meaning::Layer { index, .. } if index >= num_layers => num_skipped += 1,
                Meaning::Layer { name, .. } | Meaning::Model { name } => {
                    if let Some(part) = part {
                        let weight: &mut QuantizedWeight = quantized.entry(name).or_default();
                        weight.parts.push(WeightPart { part, file, info });
                    } else {
                        let is_used = AtomicBool::new(false);
                        tensors.push(NamedTensor { name, file, info, is_used });
                    }
                }
                Meaning::OtherPart => num_skipped += 1,
                Meaning::Nothing => {}
                Meaning::Unknown => unknown.push(info.name),
            }
        }
        if num_skipped > 0 {
            let what = match names {
                Names::Decoder(_) | Names::Head(_) => {
                    "images, sound or drafts are left out: only text is served"
                }
                Names::Encoder(_) => "other tasks are left out: only embeddings are served",
            };
            tracing::info!("{num_skipped} tensors for {what}");
        }
        if config.top().has("auto_map") {
            tracing::info!("the directory's own Python code (auto_map) is ignored");
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            path: path.to_owned(),
            config,
            files,
            names,
            has_centred_norms,
            tensors,
            method,
            quantized,
            unknown,
            is_declared: false,
        })
    }

    /// The configuration alone, of a directory or a config.json: it has no tensor, but says which there would be.
    pub fn without_weights(path: &Path) -> anyhow::Result<Self> {
        let folder = path.parent().filter(|_| path.ends_with(config::FILE));
        let (path, config) = match path.is_dir() {
            true => (path, ModelConfig::open(path)?),
            false => (folder.unwrap_or(path), ModelConfig::open_file(path)?),
        };
        Ok(Self {
            path: path.to_owned(),
            config,
            files: Vec::new(),
            names: Names::Decoder(Prefixes::find(|_| false)),
            has_centred_norms: false,
            tensors: Vec::new(),
            method: None,
            quantized: BTreeMap::new(),
            unknown: Vec::new(),
            is_declared: true,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether there is a tensor under the loader's `name`.
    pub fn has_tensor(&self, name: &str) -> bool {
        let is_there = self.find(name).is_some() || self.quantized.contains_key(name);
        is_there || self.is_declared && declared::has(&self.config, name)
    }

    /// The shape of the tensor under the loader's `name`.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.find(name).map(|tensor| &tensor.info.shape[..])
    }

    /// Whether it is no model, but an EAGLE head, which guesses for one.
    pub fn is_draft_head(&self) -> bool {
        matches!(self.names, Names::Head(_))
    }

    /// The whole numbers of the vector `name`.
    pub fn integers(&self, name: &str) -> anyhow::Result<Option<Vec<i64>>> {
        let Some(NamedTensor { file, info, is_used, .. }) = self.find(name) else {
            return Ok(None);
        };
        is_used.store(true, Ordering::Relaxed);
        let is_vector = info.dtype == "I64" && info.shape.len() == 1;
        ensure!(is_vector, "tensor {} is no vector of I64", quoted(&info.name));
        let numbers = self.files[*file].tensor_bytes(info).as_chunks::<8>().0;
        Ok(Some(numbers.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()))
    }

    /// The first tensor of the text model whose meaning is not known.
    pub fn unknown_tensor(&self) -> Option<&str> {
        self.unknown.first().map(String::as_str)
    }

    /// A tensor that nothing asked for, after a model was loaded: leaving it out would change the answers unseen.
    pub fn unused_tensor(&self) -> Option<&str> {
        let unused = |tensor: &&NamedTensor| {
            // With tied embeddings a head is only the embedding table once more.
            !tensor.is_used.load(Ordering::Relaxed) && tensor.name != "output.weight"
        };
        let unused_parts = |weight: &&QuantizedWeight| !weight.is_used.load(Ordering::Relaxed);
        let plain = self.tensors.iter().find(unused).map(|tensor| &tensor.info);
        let quantized = self.quantized.values().find(unused_parts);
        let found =
            plain.or_else(|| quantized.and_then(|weight| Some(&weight.parts.first()?.info)));
        found.map(|info| info.name.as_str())
    }

    /// The tensors that a loader may ask for, each with its name there, without those of quantized weights.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        let plain = |tensor: &&NamedTensor| !self.quantized.contains_key(&tensor.name);
        self.tensors.iter().filter(plain).map(|tensor| (tensor.name.as_str(), &tensor.info))
    }

    /// The names of the weights that are quantized.
    pub fn quantized_names(&self) -> impl Iterator<Item = &str> {
        self.quantized.keys().map(String::as_str)
    }

    /// The tensors of a quantized weight; `None` when it is not one.
    pub(in crate::weights) fn pieces(&self, name: &str) -> Option<Pieces<'_>> {
        let parts = &self.quantized.get(name)?.parts;
        let piece = |part, file: usize, info| Piece {
            part,
            info,
            bytes: self.files[file].file_bytes(info),
        };
        let weight = self.find(name).map(|tensor| piece("weight", tensor.file, &tensor.info));
        let parts = parts.iter().map(|found| piece(found.part, found.file, &found.info));
        Some(Pieces { pieces: weight.into_iter().chain(parts).collect() })
    }

    /// A quantized weight, which does not count as used.
    pub(in crate::weights) fn grouped(
        &self,
        name: &str,
    ) -> anyhow::Result<Option<GroupedWeight<'_>>> {
        let (Some(pieces), Some(method)) = (self.pieces(name), &self.method) else {
            return Ok(None);
        };
        pieces.weight(method).map(Some)
    }

    /// The length of all weight files.
    pub fn num_bytes(&self) -> u64 {
        self.files.iter().map(SafetensorsFile::num_bytes).sum()
    }

    fn find(&self, name: &str) -> Option<&NamedTensor> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        found.ok().map(|index| &self.tensors[index])
    }
}

impl WeightSource for ModelDirectory {
    fn tensor(&self, name: &str) -> anyhow::Result<Option<HostTensor<'_>>> {
        let Some(NamedTensor { file, info, is_used, .. }) = self.find(name) else {
            return Ok(None);
        };
        is_used.store(true, Ordering::Relaxed);
        let format = weight_format(&info.dtype).with_context(|| {
            let name = quoted(&info.name);
            format!(
                "tensor {name} has element type {}; BF16, F16 and F32 are read",
                quoted(&info.dtype)
            )
        })?;
        let (num_matrices, out_features, in_features) = match info.shape[..] {
            [len] => (1, 1, len),
            [out_features, in_features] => (1, out_features, in_features),
            [num_matrices, out_features, in_features] => (num_matrices, out_features, in_features),
            _ => bail!(
                "tensor {} has {} dimensions, not 1 to 3",
                quoted(&info.name),
                info.shape.len()
            ),
        };
        let (out_features, in_features) = (out_features as usize, in_features as usize);
        let num_matrices = num_matrices as usize;
        let bytes = self.files[*file].file_bytes(info);
        Ok(Some(HostTensor { format, num_matrices, out_features, in_features, bytes }))
    }

    fn has(&self, name: &str) -> bool {
        self.has_tensor(name)
    }

    fn leave_out(&self, name: &str) {
        if let Some(tensor) = self.find(name) {
            tensor.is_used.store(true, Ordering::Relaxed);
        }
        if let Some(weight) = self.quantized.get(name) {
            weight.is_used.store(true, Ordering::Relaxed);
        }
    }

    fn offset(&self, name: &str) -> f32 {
        if self.has_centred_norms && name.ends_with("norm.weight") { 1.0 } else { 0.0 }
    }

    fn blocks(&self, name: &str) -> Option<(&[u64], FileBytes<'_>)> {
        let NamedTensor { file, info, is_used, .. } = self.find(name)?;
        is_used.store(true, Ordering::Relaxed);
        (info.dtype == "U8").then(|| (&info.shape[..], self.files[*file].file_bytes(info)))
    }

    fn quantized(&self, name: &str) -> anyhow::Result<Option<GroupedWeight<'_>>> {
        let Some(weight) = self.quantized.get(name) else { return Ok(None) };
        weight.is_used.store(true, Ordering::Relaxed);
        if let Some(tensor) = self.find(name) {
            tensor.is_used.store(true, Ordering::Relaxed);
        }
        self.grouped(name)
    }

    fn name_in_file(&self, name: &str) -> String {
        match self.find(name) {
            Some(tensor) => tensor.info.name.clone(),
            None => self.names.name_in_file(name),
        }
    }
}

/// The method of quantization that the directory's configuration names.
fn quantization(path: &Path, config: &ModelConfig) -> anyhow::Result<Option<Method>> {
    for section in [config.top(), config.text()] {
        if let Some(section) = section.section("quantization_config")? {
            return Method::read(&section).map(Some);
        }
    }
    let Some(modelopt) = ModelConfig::open_modelopt(path)? else { return Ok(None) };
    modelopt.top().section("quantization")?.map(|section| Method::read(&section)).transpose()
}
