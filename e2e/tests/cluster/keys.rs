//! Checks a user's own master key, a deliberate change of the key, and the loss of a key.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::onionkey;
use onionbalance_e2e::process::Processes;

use crate::delegated::{Vault, move_without_a_gap};
use crate::scene::{PUBLISHED, SOON, Scene, scene};

#[tokio::test]
async fn a_users_own_key_is_used_moves_to_kits_and_can_be_changed_deliberately() -> Result<()> {
    scene("own-key", async |scene| {
        let vault = Vault::set().await?;
        let (onion, key) = (vault.key.address.clone(), vault.key.dir.join("hs_ed25519_secret_key"));
        scene.run(&format!("create secret generic my-key --from-file={}", key.display())).await?;
        let web = scene
            .apply(
                "web",
                "  ports:
  - {port: 80, target: {service: {name: web, port: 80}}}
  masterKey: {secretName: my-key}
  backends: {replicas: 1, drainTimeoutSeconds: 5}
",
            )
            .await?;
        ensure!(web.onion_address().await? == onion, "the object must have the key's address {onion}");
        web.wait_published(1, PUBLISHED).await?;
        let client = scene.tor_client().await?;
        let page = client.fetch(&onion, "one").await?;
        ensure!(page.starts_with("Hello"), "unexpected page {page:?}");
        move_without_a_gap(scene, &vault, &web, "my-key").await?;

        // The other key is in the format that tor-operator uses.
        let other = tempfile::tempdir()?;
        let made = onionkey::make(&Processes::open(other.path())?, other.path()).await?;
        let (new, key) = (made.address, made.dir.join("hs_ed25519_secret_key"));
        std::fs::write(&key, reduced(&std::fs::read(&key)?))?;
        scene.run(&format!("create secret generic my-key-2 --from-file={}", key.display())).await?;
        let patch =
            format!("{{\"spec\":{{\"masterKey\":{{\"secretName\":\"my-key-2\",\"onionAddress\":\"{new}\"}}}}}}");
        scene.run(&format!("patch obs/web --type=merge --patch={patch}")).await?;
        scene
            .wait("the new address serves a page", PUBLISHED, async || {
                let page = client.fetch(&new, "two").await;
                Ok(page.map_or_else(|error| Err(format!("{error:#}")), |_| Ok(())))
            })
            .await?;
        ensure!(web.onion_address().await? == new, "the object must have the new address {new}");
        client.remove().await
    })
    .await
}

/// Returns a key in tor's format whose scalar has been reduced modulo the group order by repeatedly
/// subtracting the order.
fn reduced(file: &[u8]) -> Vec<u8> {
    /// The group order `2^252 + 27742317777372353535851937790883648493` in little-endian bytes.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut file = file.to_vec();
    let scalar = &mut file[32..64];
    while scalar.iter().rev().ge(ORDER.iter().rev()) {
        let mut borrowed = false;
        for (byte, of_order) in scalar.iter_mut().zip(ORDER) {
            let (less, below) = byte.overflowing_sub(of_order);
            let (less, below_again) = less.overflowing_sub(borrowed.into());
            (*byte, borrowed) = (less, below || below_again);
        }
    }
    file
}

/// The time in which a suspended service loses its pods. A backend without streams ends about 40 s
/// after its deletion.
const SUSPENDED: Duration = Duration::from_secs(120);

#[tokio::test]
async fn the_operator_waits_for_a_deleted_key() -> Result<()> {
    scene("lost-key", async |scene| {
        let web = scene
            .apply(
                "web",
                "  ports: [{port: 80, target: {service: {name: web, port: 80}}}]\n  backends: {replicas: 1}\n",
            )
            .await?;
        let onion = web.onion_address().await?;
        let deployment = deployment(scene).await?;
        // The kubelet may notice the deletion of a pod that is just starting only 80 s later.
        web.wait_condition("BackendsReady", "True", SOON).await?;
        let backup = scene.run("get secret web-master-key -o json").await?;
        scene.run("delete secret web-master-key").await?;
        let condition = web.wait_condition("MasterKeyReady", "False", SOON).await?;
        ensure!(condition.reason == "SecretNotFound", "unexpected condition {condition:?}");
        ensure!(web.status().await?.onion_address == Some(onion.clone()), "the status must keep the address");
        ensure!(self::deployment(scene).await? == deployment, "the Deployment must not change");

        // A user who suspends the service wants it to stop, whatever else is wrong.
        scene.run(r#"patch obs/web --type=merge --patch={"spec":{"suspend":true}}"#).await?;
        scene
            .wait("the service is suspended", SUSPENDED, async || {
                let condition = web.wait_condition("Published", "False", SOON).await?;
                Ok(if condition.reason == "Suspended" { Ok(()) } else { Err(format!("{condition:?}")) })
            })
            .await?;
        let pods = scene.run("get pods -l onionbalance.dev/service=web -o name").await?;
        ensure!(pods.is_empty(), "a suspended service must have no pods: {pods}");
        scene.run(r#"patch obs/web --type=merge --patch={"spec":{"suspend":false}}"#).await?;

        scene.kubectl(&["create", "-f", "-"], &restorable(&backup)?).await?;
        web.wait_condition("MasterKeyReady", "True", SOON).await?;
        ensure!(web.onion_address().await? == onion, "the restored key must have the same address");
        Ok(())
    })
    .await
}

/// Returns the Deployment's UID and generation.
async fn deployment(scene: &Scene) -> Result<String> {
    scene.run("get deployment web-backend -o jsonpath={.metadata.uid}/{.metadata.generation}").await
}

/// Returns the backup of an object without the fields that the API server sets.
fn restorable(backup: &str) -> Result<String> {
    let mut object: serde_json::Value = serde_json::from_str(backup)?;
    let metadata = object["metadata"].as_object_mut().context("the Secret has no metadata")?;
    metadata.retain(|field, _| ["name", "labels", "annotations"].contains(&field.as_str()));
    Ok(object.to_string())
}
