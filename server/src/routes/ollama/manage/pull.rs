//! `POST /api/pull`: a model from a hub or a registry, with lines of progress.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::{Lines, finish, library, progress, respond};
use crate::app::SharedState;
use crate::error::{ApiError, shortened};
use crate::http::body::ContentType;
use crate::http::fields::Fields;
use crate::pull::{self, HubFile, Library, Place, RegistryClient, Step};
use crate::registry::Origin;
use crate::routes::ollama::error::OllamaError;
use crate::routes::ollama::incoming::take_name;
use crate::routes::prepare::Incoming;
use crate::store::DEFAULT_HOST;

/// A line for so many new bytes.
const BYTES_A_LINE: u64 = 4 << 20;

pub(crate) async fn pull(
    State(state): State<SharedState>,
    request: Request,
) -> Result<Response, OllamaError> {
    let incoming = Incoming::read(&state, request, ContentType::Any).await?;
    let library = library(&state)?;
    let mut fields = Fields::parse(&incoming.body)?;
    let name = take_name(&mut fields)?;
    let stream = fields.take_bool("stream")?.unwrap_or(true);
    let invalid = |error: anyhow::Error| ApiError::invalid("model", format!("{error:#}"));
    let place: Place = name.parse().map_err(invalid)?;
    check_host(&library, &place)?;
    let slot = state.pull_slots.clone().try_acquire_owned();
    let slot = slot.map_err(|_| ApiError::unavailable("other models are being pulled", 30))?;

    let (lines, progress) = progress();
    tokio::spawn(async move {
        let _slot = slot;
        let (own, wanted) = (library, place.clone());
        let work = tokio::task::spawn_blocking(move || {
            let made = download(&own, &wanted, &lines);
            (made, lines)
        });
        let Ok((made, lines)) = work.await else { return };
        finish(&state, &place.name(), made, &lines).await;
    });
    respond(progress, stream).await
}

/// A request reaches the registries that the server's owner named, and no other host.
fn check_host(library: &Library, place: &Place) -> Result<(), ApiError> {
    let Place::Registry(name) = place else { return Ok(()) };
    if name.host == DEFAULT_HOST || library.allowed_registries.contains(&name.host) {
        return Ok(());
    }
    let host = shortened(&name.host);
    let message = format!("{host} is not a registry that this server asks (--allowed-registries)");
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

/// Downloads and says how far it is; when nobody listens any more it goes on, since what is here is not asked for again.
fn download(library: &Library, place: &Place, lines: &Lines) -> anyhow::Result<Origin> {
    lines.status("pulling manifest");
    let mut told = 0;
    let mut report = |file: &HubFile, step: Step| {
        let digest = file.sha256.as_ref().map(|hex| format!("sha256:{hex}"));
        let name = file.sha256.as_ref().map_or(file.path.as_str(), |hex| &hex[..12]);
        let line = |completed: u64, total: Option<u64>| {
            let status = format!("pulling {name}");
            lines.say(json!({
                "status": status, "digest": digest, "total": total, "completed": completed,
            }));
        };
        match step {
            Step::Here => line(file.size.unwrap_or(0), file.size),
            Step::Started { len, size } => {
                told = len;
                line(len, size);
            }
            Step::Has { len, size } if len >= told + BYTES_A_LINE || Some(len) == size => {
                told = len;
                line(len, size);
            }
            Step::Has { .. } => {}
            Step::Verifying => drop(lines.status("verifying sha256 digest")),
        }
    };
    match place {
        Place::Hub(name) => {
            let dir = &library.models_dir;
            let pulled = pull::from_hub(&library.sources, name, "main", dir, &mut report)?;
            Ok(Origin { path: pulled.path, ..Origin::default() })
        }
        Place::Registry(name) => {
            let store = library.store();
            RegistryClient::new(library.sources.max_streams).pull(&store, name, &mut report)?;
            lines.status("writing manifest");
            let stored = store.find(name)?;
            let stored = stored.ok_or_else(|| anyhow::anyhow!("{name} is gone again"))?;
            store.origin(&stored)
        }
    }
}
