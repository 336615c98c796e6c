//! The document of the API, and the page that is made of it: kept files are what the code says.

use expect_test::expect_file;
use quire_server::app::ROUTES;
use quire_server::openapi;

use crate::support::{TestServer, answer};

#[test]
fn the_page_is_that_of_the_code() {
    // To write it anew: UPDATE_EXPECT=1 cargo test -p quire-server --test api openapi
    expect_file!["../../../docs/api.md"].assert_eq(&openapi::page());
}

#[test]
fn every_route_is_in_the_document() {
    let document = openapi::document();
    let paths = document["paths"].as_object().unwrap();
    for route in ROUTES {
        let method = route.method.as_str().to_ascii_lowercase();
        let operation = &paths[route.path][&method];
        assert!(
            operation["summary"].as_str().is_some_and(|text| text.ends_with('.')),
            "{operation}"
        );
        let has_body = !operation["requestBody"].is_null();
        assert!(!has_body || ["post", "delete"].contains(&method.as_str()), "{}", route.path);
    }
    let operations: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, ROUTES.len());
    let answers = &paths["/v1/completions"]["post"]["responses"]["200"]["content"];
    assert!(answers["text/event-stream"].is_object() && answers["application/json"].is_object());
    // Whatever is referred to is there.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[tokio::test]
async fn the_document_is_served() {
    let server = TestServer::scripted(|request| answer(request, "x"));
    let reply = server.get("/openapi.json").await;
    assert_eq!(
        (reply.json(), reply.header("content-type")),
        (openapi::document(), "application/json")
    );
}
