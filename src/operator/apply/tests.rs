//! Tests of the write requests, with a fake API server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::{Json, Router};

use super::*;
use crate::operator::children::tests::support::object;

type Answer = (StatusCode, Json<Value>);

/// A fake API server. It gives the prepared answers in turn, and records the requests.
#[derive(Clone, Default)]
struct FakeServer {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    async fn answer(self, request: Request) -> Answer {
        let method = request.method().to_string();
        let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |field: &str| body["metadata"][field].as_str().map(|text| format!(" {field} {text}"));
        let precondition = text("uid").or_else(|| text("resourceVersion")).unwrap_or_default();
        self.requests.lock().unwrap().push(format!("{method}{precondition}"));
        self.answers.lock().unwrap().pop_front().expect("there are more requests than answers")
    }

    fn writer(&self) -> Writer {
        let server = self.clone();
        let router = Router::new().fallback(move |request: Request| server.clone().answer(request));
        Writer::new(Client::new(router, "shop"), Arc::default(), Echoes::default())
    }
}

/// Applies the `ConfigMap` of the backends, which the plan has seen with the UID `seen`. Returns
/// the result in a few words, and the requests.
async fn apply_seen(takes_over: bool, answers: Vec<Answer>) -> (String, Vec<String>) {
    let server = FakeServer { answers: Arc::new(Mutex::new(answers.into())), ..FakeServer::default() };
    let id = ChildId { kind: Kind::ConfigMap, name: "web-backend".to_owned() };
    let metadata = json!({"name": "web-backend", "namespace": "shop"});
    let manifest = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    let due = Due { id, manifest, exists: true, uid: Some("seen".to_owned()), takes_over };
    let result = match children(&server.writer(), &object(&json!({})), vec![due]).await.as_deref() {
        Ok([(_, Applied::Written(metadata))]) => format!("written {}", metadata.uid.as_deref().unwrap_or_default()),
        Ok([(_, Applied::Taken(_))]) => "taken".to_owned(),
        Ok([(_, Applied::Refused(message))]) => format!("refused: {message}"),
        Ok(_) => "another result".to_owned(),
        Err(error) => format!("error: {error}"),
    };
    assert!(server.answers.lock().unwrap().is_empty(), "there are fewer requests than answers");
    let requests = server.requests.lock().unwrap().clone();
    (result, requests)
}

/// Returns the answer with the metadata of an object that the service controls.
fn ours(uid: &str) -> Answer {
    let owner = json!({"apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "web",
                       "uid": "uid-of-web", "controller": true});
    let metadata = json!({"name": "web-backend", "uid": uid, "resourceVersion": "5", "ownerReferences": [owner],
                          "managedFields": [{"manager": OPERATOR_MANAGER, "operation": "Apply"}]});
    (StatusCode::OK, Json(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})))
}

/// Returns the answer with the metadata of an object that somebody else has created.
fn foreign() -> Answer {
    let metadata = json!({"name": "web-backend", "uid": "foreign", "resourceVersion": "6"});
    (StatusCode::OK, Json(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})))
}

/// Returns the refusal of a request because of a field.
fn refusal(code: StatusCode, reason: &str, field: &str) -> Answer {
    let details = json!({"causes": [{"field": field}]});
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": "no",
                        "reason": reason, "code": code.as_u16(), "details": details});
    (code, Json(status))
}

fn conflict() -> Answer {
    refusal(StatusCode::CONFLICT, "Conflict", "")
}

fn invalid(field: &str) -> Answer {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", field)
}

fn missing() -> Answer {
    refusal(StatusCode::NOT_FOUND, "NotFound", "")
}

#[tokio::test]
async fn an_update_changes_only_the_object_that_the_plan_has_seen() {
    let cases: [(&str, Vec<Answer>, &[&str]); 6] = [
        ("written seen", vec![ours("seen")], &["PATCH uid seen"]),
        ("taken", vec![conflict(), foreign()], &["PATCH uid seen", "GET"]),
        ("taken", vec![invalid("metadata.uid"), foreign()], &["PATCH uid seen", "GET"]),
        ("written new", vec![conflict(), ours("new"), ours("new")], &["PATCH uid seen", "GET", "PATCH uid new"]),
        (
            "written new",
            vec![conflict(), missing(), ours("new")],
            &["PATCH uid seen", "GET", "PATCH resourceVersion 1"],
        ),
        ("refused: no", vec![invalid("data")], &["PATCH uid seen"]),
    ];
    for (expected, answers, requests) in cases {
        let (result, sent) = apply_seen(false, answers).await;
        assert_eq!((result.as_str(), sent.join(", ")), (expected, requests.join(", ")));
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_twice_is_an_error() {
    let (result, sent) = apply_seen(false, vec![conflict(), ours("new"), conflict()]).await;
    assert!(result.starts_with("error: "), "{result}");
    assert_eq!(sent, ["PATCH uid seen", "GET", "PATCH uid new"]);
}

#[tokio::test]
async fn the_fields_of_another_object_are_not_taken_over() {
    let (result, sent) = apply_seen(true, vec![foreign(), conflict(), foreign()]).await;
    assert_eq!(result, "taken");
    assert_eq!(sent, ["GET", "PATCH uid seen", "GET"]);
}
