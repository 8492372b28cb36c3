//! Searches everything on the engine that has an installation's label, with the command line of `docker`.

use tokio::process::Command;

use super::{Needles, Places};
use crate::cluster::{Cluster, image};

/// Reads the parts of a running sandbox that are in no layer and no volume: its memory filesystems, and the
/// arguments and environments of its processes.
const INSIDE: &str =
    "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; tar -c -f - /tmp /home/user /dev/shm; true";

impl Cluster {
    /// Searches everything on the engine with the label of `installation`.
    pub async fn search_docker(&self, installation: &str, needles: &Needles<'_>, found: &mut Places) {
        let engine = Engine { host: self.engine.host().to_owned() };
        let filter = format!("label=steward.installation={installation}");
        for id in engine.list(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]).await {
            engine.search_container(&id, needles, found).await;
        }
        for name in engine.list(&["volume", "ls", "--quiet", "--filter", &filter]).await {
            let place = format!("volume {name}");
            needles.look(&engine.run(&["volume", "inspect", &name]).await, &place, found);
            // Creates a container that never runs, because the engine shows the content of a volume only
            // through one.
            let mount = format!("{name}:/searched:ro");
            let base = image(self.engine.host());
            let id = engine.line(&["create", "--network", "none", "--volume", &mount, &base, "true"]).await;
            needles.look(&engine.run(&["cp", &format!("{id}:/searched"), "-"]).await, &place, found);
            engine.run(&["rm", &id]).await;
        }
        for id in engine.list(&["image", "ls", "--quiet", "--no-trunc", "--filter", &filter]).await {
            let place = format!("image {id}");
            needles.look(&engine.run(&["image", "inspect", &id]).await, &place, found);
            needles.look(&engine.run(&["history", "--no-trunc", &id]).await, &place, found);
            let scratch = engine.line(&["create", "--network", "none", &id, "true"]).await;
            needles.look(&engine.run(&["export", &scratch]).await, &place, found);
            engine.run(&["rm", &scratch]).await;
        }
    }
}

/// The `docker` command line of one engine.
#[derive(Debug)]
pub struct Engine {
    /// Address on which the engine listens.
    pub host: String,
}

impl Engine {
    /// Runs a command and returns its output.
    pub async fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output =
            Command::new("docker").arg("--host").arg(&self.host).args(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {}: {said}", arguments.join(" "));
        output.stdout
    }

    /// Runs a command and returns the last line of its output.
    pub async fn line(&self, arguments: &[&str]) -> String {
        self.list(arguments).await.pop().unwrap()
    }

    async fn list(&self, arguments: &[&str]) -> Vec<String> {
        String::from_utf8(self.run(arguments).await).unwrap().lines().map(str::to_owned).collect()
    }

    async fn search_container(&self, id: &str, needles: &Needles<'_>, found: &mut Places) {
        let name = self.line(&["inspect", "--format", "{{.Name}}", id]).await;
        needles.look(&self.run(&["inspect", id]).await, &format!("container record {name}"), found);
        needles.look(&self.run(&["export", id]).await, &format!("container layer {name}"), found);
        needles.look(&self.run(&["logs", id]).await, &format!("container output {name}"), found);
        if self.line(&["inspect", "--format", "{{.State.Running}}", id]).await == "true" {
            let inside = self.run(&["exec", id, "sh", "-c", INSIDE]).await;
            needles.look(&inside, &format!("container inside {name}"), found);
        }
    }
}
