//! Tests a worker that is suspended while it creates a sandbox: before it creates the volume, before it
//! creates the container, or after it. Once another worker has failed the sandbox, because its creation timed
//! out, the suspended worker resumes. Nothing may remain on the engine, and the sandbox's row must not
//! change.

use std::time::SystemTime;

use suite_tests::{
    eventually::eventually,
    rounds::{report, rounds},
};

use super::{SOON, Scene, scene};

/// The fail points at which the worker is suspended until its sandbox has timed out.
const LATE: [&str; 3] = ["sandbox.create.taken", "sandbox.create.sending", "sandbox.create.made"];

#[tokio::test]
async fn a_create_sent_after_its_sandbox_timed_out_leaves_nothing() {
    let rounds = rounds("late_create", LATE.len());
    // Sandboxes time out after 8 s. The lease of a create is longer, so no worker takes the create over, and
    // the suspended worker still holds its lease when it resumes.
    let mut scene =
        scene("create.deadline = '8s'\ncreate.lease = '120s'\nlifetimes.sweep_period = '200ms'").await;
    let mut refused = 0;
    for round in 0..rounds {
        refused += usize::from(scene.timed_out_and_sent(LATE[round % LATE.len()]).await);
    }
    assert!(refused > 0, "none was sent late");
    report(
        "late create",
        format_args!(
            "{rounds} creates continued after they timed out, {refused} refused by the engine, nothing left"
        ),
    );
    scene.cluster.stop().await;
}

impl Scene {
    /// Does one round: "sandbox" is suspended at `point` while it creates a sandbox; "sandbox-2", which
    /// creates none, marks that sandbox failed when it times out; "sandbox" resumes. Returns whether the
    /// engine refused the create.
    async fn timed_out_and_sent(&mut self, point: &str) -> bool {
        self.kill_both().await;
        self.cluster.process("sandbox").arm(&format!("{point}=stop@1"));
        self.cluster.process("sandbox").run();
        self.cluster.process("sandbox-2").set("create.cap", "0");
        self.cluster.process("sandbox-2").run();
        self.cluster.plane.until_ready(SOON).await.unwrap();

        let sandbox = self.request().await;
        self.cluster.process("sandbox").until_stopped(SOON).await;
        self.until_state(&sandbox, "failed").await;
        self.until_volumes_are_settled().await;
        assert_eq!(self.column(&sandbox, "cause").await.as_deref(), Some("create_timeout"));
        let volume = self.column(&sandbox, "volume_id").await.unwrap();
        let run_dir = self.column(&sandbox, "container_run_dir").await.unwrap();
        let row = self.row(&sandbox).await;
        let parts = [sandbox.as_str(), &volume, &run_dir];
        assert_eq!(self.traces(&parts).await, Vec::<String>::new(), "{point}: before it was sent");

        let since = SystemTime::now();
        self.cluster.process("sandbox").thaw();
        // Only "sandbox" creates sandboxes, one after the other: once it has created the next one, it has
        // finished with this one.
        let next = self.running().await;
        let refused = self.logged("engine refused a container") == 1;
        // The late request makes the engine create the volume again; the plane finds it and removes it.
        let look = async || self.traces(&parts).await.is_empty().then_some(());
        eventually(format!("{point}: nothing is left"), SOON, look).await;
        let events = self.events(since);
        assert!(events.iter().all(|event| !event.contains(&sandbox)), "{point}: {events:?}");
        assert!(events.iter().any(|event| event.contains(&next)), "{point}: the engine logged no event");
        assert_eq!(self.row(&sandbox).await, row, "{point}: the row changed");
        self.delete(&next).await;
        refused
    }
}
