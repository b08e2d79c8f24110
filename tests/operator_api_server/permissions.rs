//! Checks that the operator and the publisher use every permission that they have. The API server's
//! audit log shows their requests.

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role, RoleBinding};
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::json;

use crate::children::leaves_a_foreign_object_alone;
use crate::lease::{Stage, account};
use crate::refusals::reports_stuck_pods;
use crate::scene::{PATIENCE, Scene, VERBOSE_LOG};
use crate::server::{ACCOUNT, OWN_NAMESPACE, administrator, audit_log, client_as};
use crate::wait::until;

/// A permission for a kind of object, such as `create deployments.apps`.
type Permission = String;

/// A line of the audit log.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    verb: String,
    #[serde(default)]
    impersonated_user: User,
    object_ref: Option<Target>,
    response_status: Option<Response>,
}

#[derive(Default, Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    #[serde(default)]
    api_group: String,
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct Response {
    code: u16,
}

/// Returns the permissions that a user has used in a namespace so far. A server-side apply also
/// uses the permission to create if it creates an object.
fn used_by(user: &str, namespace: &str) -> BTreeSet<Permission> {
    const FORBIDDEN: u16 = 403;
    const CREATED: u16 = 201;
    let log = std::fs::read_to_string(audit_log()).unwrap();
    let mut permissions = BTreeSet::new();
    // The server may be writing the last line.
    let complete = log.rsplit_once('\n').map_or("", |(complete, _)| complete);
    for line in complete.lines().filter(|line| line.contains(user) && line.contains(namespace)) {
        let request: Request = serde_json::from_str(line).unwrap();
        let (Some(target), Some(response)) = (request.object_ref, request.response_status) else { continue };
        if request.impersonated_user.username != user || target.namespace != namespace || response.code == FORBIDDEN {
            continue;
        }
        if response.code == CREATED {
            permissions.insert(permission(&target.api_group, &target.resource, "create"));
        }
        let resource = [target.resource, target.subresource].join("/");
        permissions.insert(permission(&target.api_group, resource.trim_end_matches('/'), &request.verb));
    }
    permissions
}

fn permission(group: &str, resource: &str, verb: &str) -> Permission {
    format!("{verb} {resource}.{group}").trim_end_matches('.').to_owned()
}

/// Returns the permissions that rules grant. The names to which a rule is limited are ignored.
fn granted(rules: &[PolicyRule]) -> BTreeSet<Permission> {
    let mut granted = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                granted.extend(rule.verbs.iter().map(|verb| permission(group, resource, verb)));
            }
        }
    }
    granted
}

/// Returns the rules without one permission.
fn without(rules: &[PolicyRule], left_out: &Permission) -> Vec<PolicyRule> {
    let mut rest = Vec::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let keep = |verb: &&String| permission(group, resource, verb) != *left_out;
                let verbs: Vec<String> = rule.verbs.iter().filter(keep).cloned().collect();
                let (api_groups, resources) = (Some(vec![group.clone()]), Some(vec![resource.clone()]));
                rest.push(PolicyRule { api_groups, resources, verbs, ..rule.clone() });
            }
        }
    }
    rest.retain(|rule| !rule.verbs.is_empty());
    rest
}

/// A permission that the operator does not use itself must be one that it grants to the publisher.
/// Without it, the API server must refuse the publisher's Role.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_uses_every_permission() {
    let mut scene = Scene::start_electing_in("default", "permissions").await;
    scene.create("web", json!({"restrictedDiscovery": {"secretName": "clients"}})).await;
    scene.wait_children("web").await;
    let kinds = scene.kinds_of_children();
    join_all(kinds.iter().map(|resource| leaves_a_foreign_object_alone(&scene, resource, false))).await;
    deletes_unused_objects(&scene).await;
    reports_stuck_pods(&scene).await;
    for _ in 0..2 {
        scene.change("web", json!({"spec": {"backends": {"extraTorrc": VERBOSE_LOG}}})).await;
        scene.wait_condition("web", "Accepted", "False InvalidSpec").await;
        scene.change("web", json!({"spec": {"backends": {"extraTorrc": null}}})).await;
        scene.wait_condition("web", "Accepted", "True Valid").await;
    }

    let cluster_roles: Api<ClusterRole> = Api::all(scene.client.clone());
    let rules = cluster_roles.get("onionbalance-operator").await.unwrap().rules.unwrap();
    let of_publisher: Role = scene.api().get("web-frontend").await.unwrap();
    let delegated = granted(of_publisher.rules.as_ref().unwrap());
    // The audit log contains a watch only after the watch has ended.
    scene.stop_operator().await;
    let unused = until("every permission is used or delegated", PATIENCE, async || {
        let used = used_by(ACCOUNT, &scene.namespace);
        let unused: BTreeSet<_> = granted(&rules).difference(&used).cloned().collect();
        if unused.is_subset(&delegated) { Ok(unused) } else { Err(format!("{unused:?} are not used")) }
    })
    .await;
    join_all(unused.iter().enumerate().map(|(number, unused)| {
        let rules = without(&rules, unused);
        cannot_be_delegated(&scene, format!("permissions-{number}"), rules, &of_publisher)
    }))
    .await;
}

/// Creates copies of owned objects with names that the operator no longer uses, and waits until the
/// operator has deleted them.
async fn deletes_unused_objects(scene: &Scene) {
    for resource in scene.kinds_of_children().iter().filter(|resource| resource.kind != "Secret") {
        let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, resource);
        let mut copy = api.get("web-frontend").await.unwrap();
        let ObjectMeta { labels, owner_references, .. } = copy.metadata;
        let name = Some("web-unused".to_owned());
        copy.metadata = ObjectMeta { name, labels, owner_references, ..ObjectMeta::default() };
        if let Some(status) = copy.data.as_object_mut() {
            status.remove("status");
        }
        api.create(&PostParams::default(), &copy).await.unwrap();
        until(&format!("{} web-unused is gone", resource.kind), PATIENCE, async || {
            let found = api.get_opt("web-unused").await.map_err(|error| error.to_string())?;
            found.map_or(Ok(()), |found| Err(format!("{:?}", found.metadata)))
        })
        .await;
    }
}

/// Checks that a user with these rules cannot create the publisher's Role, because the rules lack a
/// permission that the Role grants.
async fn cannot_be_delegated(scene: &Scene, user: String, rules: Vec<PolicyRule>, of_publisher: &Role) {
    let metadata = ObjectMeta { name: Some(user.clone()), ..ObjectMeta::default() };
    let role = Role { metadata, rules: Some(rules) };
    scene.api().create(&PostParams::default(), &role).await.unwrap();
    let binding = json!({
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    });
    let bindings: Api<RoleBinding> = scene.api();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let metadata = ObjectMeta { name: Some(format!("{user}-delegated")), ..ObjectMeta::default() };
    let delegated = Role { metadata, rules: of_publisher.rules.clone() };
    let limited: Api<Role> = Api::namespaced(client_as(&user), &scene.namespace);
    until(&format!("{user} can create Roles"), PATIENCE, async || {
        let refused = limited.create(&PostParams::default(), &delegated).await.unwrap_err().to_string();
        // The permission to create Roles takes effect a moment after the RoleBinding exists.
        if refused.contains("attempting to grant RBAC permissions not currently held") { Ok(()) } else { Err(refused) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_uses_every_permission() {
    let spec = json!({"restrictedDiscovery": {"secretName": "clients"}});
    let stage = Stage::start_with("permissions-of-publisher", spec).await;
    stage.share_guards();
    let publisher = stage.publisher("a").await;
    let role: Role = stage.scene.api().get("web-frontend").await.unwrap();
    let granted = granted(role.rules.as_ref().unwrap());
    let account = account(&stage.scene.namespace);
    let uses_all_but = async |verb: &str| {
        until(&format!("the publisher has used every permission but to {verb}"), PATIENCE, async || {
            let used = used_by(&account, &stage.scene.namespace);
            let is_unused = |left: &&Permission| verb.is_empty() || !left.starts_with(verb);
            let unused: Vec<_> = granted.difference(&used).filter(is_unused).collect();
            if unused.is_empty() { Ok(()) } else { Err(format!("{unused:?} are not used")) }
        })
        .await;
    };
    // The audit log contains a watch only after the watch has ended. All watches begin at the
    // start, and the Lease is updated for the first time seconds later.
    uses_all_but("watch").await;
    drop(publisher);
    uses_all_but("").await;
    stage.end().await;
}

/// Checks that the leader election of an operator that ran as this user has used every permission
/// of its Role.
pub async fn leader_election_uses_every_permission(user: &str) {
    let roles: Api<Role> = Api::namespaced(administrator().await, OWN_NAMESPACE);
    let role = roles.get("onionbalance-operator-leader-election").await.unwrap();
    assert_eq!(used_by(user, OWN_NAMESPACE), granted(role.rules.as_ref().unwrap()));
}
