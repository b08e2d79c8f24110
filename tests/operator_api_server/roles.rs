//! Tests of access to our objects through the cluster's built-in roles. The controller that
//! aggregates cluster roles runs during these tests.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, PostParams};
use onionbalance_operator::crd::OnionBalancedService;
use serde_json::json;

use crate::scene::{PATIENCE, Scene};
use crate::server::{client_as, programs, write_administrators_kubeconfig};
use crate::wait::until;

/// A running kube-controller-manager with only the controller that aggregates cluster roles.
struct Controller(Child);

impl Controller {
    fn start(folder: &Path) -> Self {
        let kubeconfig = folder.join("kubeconfig");
        write_administrators_kubeconfig(&kubeconfig);
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let manager = programs().join("kube-controller-manager");
        let program = Command::new(&manager)
            .args(arguments(&manager))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(program.unwrap())
    }
}

/// Returns arguments that make a controller manager run only this controller and open no port. The
/// controller's name and the flags differ between versions, so they are taken from the help text.
fn arguments(manager: &Path) -> Vec<String> {
    let help = Command::new(manager).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut words = help.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    let controller = words.find(|word| word.starts_with("clusterrole-aggregation"));
    let controller = controller.expect("the help text does not list the controller");
    let mut arguments =
        vec![format!("--controllers={controller}"), "--leader-elect=false".to_owned(), "--secure-port=0".to_owned()];
    if help.contains(" --port int ") {
        arguments.push("--port=0".to_owned());
    }
    arguments
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn view_edit_and_admin_cover_our_objects() {
    let scene = Scene::start("people").await;
    scene.create("web", json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    let _controller = Controller::start(folder.path());
    for (role, may_write) in [("view", false), ("edit", true), ("admin", true)] {
        let user = format!("people-{role}");
        let binding = json!({
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
        });
        let bindings: Api<RoleBinding> = scene.api();
        bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
        let objects: Api<OnionBalancedService> = Api::namespaced(client_as(&user), &scene.namespace);
        until(&format!("{user} can read"), PATIENCE, async || {
            let read = objects.get_status("web").await.map(|_| ()).map_err(|error| error.to_string());
            read.map_err(|error| format!("{error}: {}", std::fs::read_to_string(folder.path().join("log")).unwrap()))
        })
        .await;
        assert!(objects.get_scale("web").await.is_ok());
        let scaled = kube::api::Patch::Merge(json!({"spec": {"replicas": 3}}));
        if may_write {
            // The rules for writing are separate from those for reading, and may be aggregated
            // later.
            until(&format!("{user} can scale"), PATIENCE, async || {
                let scaled = objects.patch_scale("web", &kube::api::PatchParams::default(), &scaled).await;
                scaled.map(|_| ()).map_err(|error| error.to_string())
            })
            .await;
        } else {
            let refused = objects.patch_scale("web", &kube::api::PatchParams::default(), &scaled).await.unwrap_err();
            assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
        }
        let status = kube::api::Patch::Merge(json!({"status": {"onionAddress": "x"}}));
        let refused = objects.patch_status("web", &kube::api::PatchParams::default(), &status).await.unwrap_err();
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
        // The roles have not gained access to anything but our objects.
        let roles: Api<Role> = Api::namespaced(client_as(&user), &scene.namespace);
        assert_eq!(roles.list(&kube::api::ListParams::default()).await.is_ok(), role == "admin");
    }
    scene.end().await;
}
