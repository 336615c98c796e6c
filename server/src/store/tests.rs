//! A store on disk: what goes in comes out, what is spoilt or hostile does not.

use std::path::Path;

use serde_json::json;

use super::manifest::{CONFIG_TYPE, MANIFEST_TYPE};
use super::*;

/// A store of one test, removed with it.
struct Folder(Store);

impl Folder {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("quire-store-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Self(Store::new(root))
    }

    /// A model whose weights are `bytes`.
    fn add(&self, name: &str, bytes: &[u8], layers: Vec<Layer>) -> Manifest {
        let store = &self.0;
        let model = store.put_text("model", bytes).unwrap();
        let config = store.put_text("config", b"{}").unwrap();
        let config = Layer { media_type: CONFIG_TYPE.into(), ..config };
        let manifest = Manifest { config, layers: [vec![model], layers].concat() };
        store.put_manifest(&name.parse().unwrap(), &manifest).unwrap();
        manifest
    }

    fn names(&self) -> Vec<String> {
        self.0.list().iter().map(|stored| stored.name.to_string()).collect()
    }

    fn num_blobs(&self) -> usize {
        fs::read_dir(self.0.blobs()).unwrap().count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.root());
    }
}

fn name(text: &str) -> StoreName {
    text.parse().unwrap()
}

#[test]
fn a_model_and_its_settings_come_back() {
    let folder = Folder::new("settings");
    let store = &folder.0;
    assert!(store.list().is_empty() && !Store::is_one(store.root()));
    let layers = vec![
        store.put_text("params", br#"{"stop": ["x"], "temperature": 0.1}"#).unwrap(),
        store.put_text("system", b"Be short.").unwrap(),
        store.put_text("template", b"{{ .Prompt }}").unwrap(),
        store.put_text("license", b"MIT").unwrap(),
    ];
    let manifest = folder.add("tiny:v1", b"weights", layers);
    assert!(Store::is_one(store.root()));
    let stored = store.find(&name("tiny:v1")).unwrap().unwrap();
    assert_eq!(stored.manifest, manifest);
    let origin = store.origin(&stored).unwrap();
    assert_eq!(fs::read(&origin.path).unwrap(), b"weights");
    assert_eq!(origin.settings.system.as_deref(), Some("Be short."));
    assert_eq!(origin.settings.parameters["temperature"], json!(0.1));
    // What Go would have to run is passed over.
    assert_eq!(origin.settings.template, None);
    assert_eq!(origin.digest.unwrap().len(), 64);
    assert!(store.find(&name("tiny")).unwrap().is_none());
}

#[test]
fn blobs_live_as_long_as_a_name_has_them() {
    let folder = Folder::new("blobs");
    let store = &folder.0;
    folder.add("a", b"weights", vec![]);
    store.copy(&name("a"), &name("me/b:v2")).unwrap();
    folder.add("c", b"others", vec![]);
    assert_eq!(folder.names(), ["a:latest", "c:latest", "me/b:v2"]);
    assert_eq!(folder.num_blobs(), 3);
    store.remove(&name("a")).unwrap();
    assert_eq!((folder.names().len(), folder.num_blobs()), (2, 3));
    store.remove(&name("me/b:v2")).unwrap();
    assert_eq!((folder.names(), folder.num_blobs()), (vec!["c:latest".to_owned()], 2));
    assert!(store.remove(&name("a")).unwrap_err().to_string().contains("no model a:latest"));
    assert!(store.copy(&name("a"), &name("d")).is_err());
    // While something is being added nothing is removed.
    let adding = store.lock_to_add().unwrap();
    assert!(store.remove(&name("c")).unwrap_err().to_string().contains("being written to"));
    drop(adding);
    store.remove(&name("c")).unwrap();
    assert_eq!(folder.num_blobs(), 0);
}

#[test]
fn a_blob_has_its_name_only_when_its_bytes_have_that_sum() {
    let folder = Folder::new("sums");
    let store = &folder.0;
    let wanted = BlobDigest::of(b"right");
    let mut writer = store.write_blob(None, 100).unwrap();
    writer.append(b"wrong").unwrap();
    let error = writer.finish(Some(&wanted)).unwrap_err().to_string();
    assert!(error.contains("checksum is wrong"), "{error}");
    let mut endless = store.write_blob(None, 10).unwrap();
    endless.append(b"0123456789").unwrap();
    assert!(endless.append(b"x").unwrap_err().to_string().contains("longer than"));
    drop(endless);
    assert!(!store.has_blob(&wanted));
    assert_eq!(folder.num_blobs(), 0);
    let error = store.write_blob(Some(1 << 62), u64::MAX).err().unwrap().to_string();
    assert!(error.contains("are free"), "{error}");
    // A manifest is not written before its blobs.
    let manifest = Manifest {
        config: Layer { media_type: CONFIG_TYPE.into(), digest: wanted, size: 5 },
        layers: vec![],
    };
    assert!(store.put_manifest(&name("x"), &manifest).is_err());
    assert!(folder.names().is_empty());
}

#[test]
fn hostile_files_in_a_store_are_errors_or_nothing() {
    let folder = Folder::new("hostile");
    let store = &folder.0;
    let good = folder.add("good", b"weights", vec![]);
    let folder_of = |host: &str| store.root().join("manifests").join(host);
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // Names that do not pass the grammar are not there.
    write(&folder_of("h").join("n/..m/latest"), "{}");
    write(&folder_of("h").join("n/m/.part"), "{}");
    write(&folder_of("h").join("n/m/t/too/deep"), "{}");
    let evil = String::from_utf8(good.to_bytes()).unwrap();
    let hex = good.layers[0].digest.hex().to_owned();
    write(&folder_of("h").join("n/traverses/t"), &evil.replace(&hex, "../../../etc/passwd"));
    let longer = good.layers[0].size;
    let evil = evil.replace(&format!("\"size\":{longer}"), "\"size\":999999");
    write(&folder_of("h").join("n/short/t"), &evil);
    assert!(store.find(&name("h/n/traverses:t")).is_err());
    let stored = store.find(&name("h/n/short:t")).unwrap().unwrap();
    assert!(store.origin(&stored).unwrap_err().to_string().contains("not whole"));
    assert_eq!(folder.names(), ["h/n/short:t", "good:latest"]);
    // A blob that another unreadable manifest may have, stays.
    let blobs = folder.num_blobs();
    let error = store.remove(&name("good")).unwrap_err().to_string();
    assert!(error.contains("its blobs stay") && folder.num_blobs() == blobs, "{error}");

    // A text of settings that was changed behind its sum.
    let spoilt = Folder::new("spoilt");
    let layer = spoilt.0.put_text("system", b"Be kind.").unwrap();
    spoilt.add("m", b"weights", vec![layer.clone()]);
    fs::write(spoilt.0.blob_path(&layer.digest), b"Be rude.").unwrap();
    let stored = spoilt.0.find(&name("m")).unwrap().unwrap();
    assert!(spoilt.0.origin(&stored).unwrap_err().to_string().contains("spoilt"));
    assert_eq!(MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json");
}
