//! `quire pull`: a model from a Hugging Face style hub or a registry, whole and verified or not at all.

mod progress;

use anyhow::{Result, ensure};
use quire_engine::plan::human_bytes;
use quire_server::pull::{self, HubFile, Place, RegistryClient, Sources, Step, check_revision};
use quire_server::store::Store;

use self::progress::Progress;
use crate::args::{CommonOptions, Environment, PullArgs};

/// Downloads what `args` names to the models folder and says how to serve it.
pub(crate) fn run(
    args: &PullArgs,
    options: &CommonOptions,
    environment: &Environment,
) -> Result<()> {
    let place: Place = args.model.parse()?;
    check_revision(&args.revision)?;
    let sources = sources(environment, args.streams);
    let mut progress = Progress::default();
    let mut report = |file: &HubFile, step: Step| progress.take(file, step);
    match place {
        Place::Hub(name) => {
            let (dir, revision) = (&options.models_dir, &args.revision);
            let pulled = pull::from_hub(&sources, &name, revision, dir, &mut report)?;
            println!("{} ({})", pulled.path.display(), human_bytes(pulled.num_bytes));
            println!("serve it with: quire serve {}", pulled.path.display());
        }
        Place::Registry(name) => {
            ensure!(args.revision == "main", "--revision is of a hub; a registry has tags: {name}");
            let store = Store::new(options.models_dir.clone());
            RegistryClient::new(sources.max_streams).pull(&store, &name, &mut report)?;
            println!("{name}\nserve it with: quire serve {name}");
        }
    }
    Ok(())
}

/// The hub of the environment, and so many ranges at once.
pub(crate) fn sources(environment: &Environment, streams: u8) -> Sources {
    Sources {
        hub_endpoint: environment.hub_endpoint.clone(),
        hub_token: environment.hub_token.clone(),
        max_streams: streams.into(),
    }
}
