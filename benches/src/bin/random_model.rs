//! Writes a random-weight GGUF file of a given shape and type.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use quire_benches::random_model::{Architecture, Recipe, SHAPES, write};
use quire_benches::report::progress;
use quire_benches::vocabulary::Vocabulary;

/// Write a GGUF file with random weights: right for speed, senseless in what it says.
#[derive(Debug, Parser)]
struct Args {
    /// The file to write
    output: PathBuf,

    /// Weight format or mixture, as Q8_0 or Q4_K_M; rows that are no multiple of 256 get blocks of 32 instead
    #[arg(long = "type", default_value = "Q4_K_M")]
    weight_type: String,

    /// Shape of a well-known model; the flags below change it
    #[arg(long, default_value = "tiny")]
    shape: String,

    #[arg(long)]
    architecture: Option<Architecture>,

    #[arg(long)]
    layers: Option<usize>,

    #[arg(long)]
    hidden_size: Option<usize>,

    #[arg(long)]
    intermediate_size: Option<usize>,

    /// Experts of each layer, each of the intermediate size
    #[arg(long, requires = "experts_per_token")]
    experts: Option<usize>,

    /// Experts that a token gets
    #[arg(long, requires = "experts")]
    experts_per_token: Option<usize>,

    #[arg(long)]
    heads: Option<usize>,

    #[arg(long)]
    kv_heads: Option<usize>,

    #[arg(long)]
    head_dim: Option<usize>,

    /// Tokens of the vocabulary, at least 259
    #[arg(long)]
    vocab_size: Option<usize>,

    #[arg(long)]
    context_length: Option<usize>,

    /// A head of its own in place of the embedding table
    #[arg(long)]
    untied: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let recipe = Recipe::named(&args.weight_type).with_context(|| {
        format!("--type {} is not one of {}", args.weight_type, Recipe::names().join(", "))
    })?;
    let named = SHAPES.iter().find(|(name, _)| *name == args.shape);
    let (_, mut shape) = *named.with_context(|| {
        let names = SHAPES.map(|(name, _)| name);
        format!("--shape {} is not one of {}", args.shape, names.join(", "))
    })?;
    shape.architecture = args.architecture.unwrap_or(shape.architecture);
    shape.tied_embeddings &= !args.untied;
    shape.experts = args.experts.zip(args.experts_per_token);
    let fields = [
        (&mut shape.num_layers, args.layers),
        (&mut shape.hidden_size, args.hidden_size),
        (&mut shape.intermediate_size, args.intermediate_size),
        (&mut shape.num_heads, args.heads),
        (&mut shape.num_kv_heads, args.kv_heads),
        (&mut shape.head_dim, args.head_dim),
        (&mut shape.vocab_size, args.vocab_size),
        (&mut shape.context_length, args.context_length),
    ];
    for (field, flag) in fields {
        *field = flag.unwrap_or(*field);
    }
    let vocabulary = Vocabulary::new(shape.vocab_size)?;
    let path = &args.output;
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    write(&shape, recipe, &vocabulary, &mut BufWriter::new(file))?;
    progress(&format!("{} is there", path.display()));
    Ok(())
}
