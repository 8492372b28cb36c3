//! Tests that stale processes are fenced on a real engine: a replica that was suspended past its lease and
//! then resumes writes nothing, creates nothing and removes nothing.
//!
//! Two replicas of sandbox-svc serve one engine. The test suspends "sandbox", by SIGSTOP or at a fail point;
//! "sandbox-2" keeps running. The tests read rows, the engine's containers and volumes, run directories, and
//! the engine's event log, which also shows objects that existed only for a moment.

mod late;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::RngExt;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use steward::plane::Service;
use suite_tests::{
    actors::Tenant,
    cluster::{Cluster, image},
    eventually::eventually,
    rounds::{chance, report, rounds},
};
use svc_core::id::new_id;

const SOON: Duration = Duration::from_secs(30);
/// Makes the running replica, which holds the lease, wait 5 s before it acts, so that the suspended one can
/// resume and try to act first.
const HELD: &str = "sandbox.reconcile.acting=sleep:5000";

struct Scene {
    cluster: Cluster,
    tenant: Tenant,
}

/// Starts a plane with two replicas of sandbox-svc. A reconciler acts on objects that are 2 s old, and a
/// workspace is removed with its sandbox.
async fn scene(settings: &str) -> Scene {
    let cluster = Cluster::builder()
        .replicas(Service::Sandbox, 2)
        .settings(Service::Sandbox, "reconcile.min_age = '2s'\nlifetimes.volume_retention = '0s'")
        .settings(Service::Sandbox, settings)
        .start()
        .await;
    let tenant = cluster.tenant("fenced").await;
    Scene { cluster, tenant }
}

impl Scene {
    /// Kills both replicas of sandbox-svc and returns the last epoch of the reconciler's lease.
    async fn kill_both(&mut self) -> i64 {
        self.cluster.process("sandbox").kill().await;
        self.cluster.process("sandbox-2").kill().await;
        fs::write(self.cluster.process("sandbox").log_file(), "").unwrap();
        self.epoch().await
    }

    async fn db(&self) -> PgConnection {
        PgConnection::connect(&self.cluster.database.admin_url().unwrap()).await.unwrap()
    }

    /// Returns every row that a worker may write; rows of sandboxes without their lease columns.
    async fn rows(&self) -> Vec<String> {
        let mut db = self.db().await;
        sqlx::query_scalar(
            "SELECT concat('sandbox ', to_jsonb(s) - 'lease_owner' - 'lease_until') FROM sandbox.sandboxes s
             UNION ALL SELECT concat('volume ', to_jsonb(v)) FROM sandbox.volumes v
             UNION ALL SELECT concat('exec ', to_jsonb(e)) FROM sandbox.execs e
             UNION ALL SELECT concat('audit ', to_jsonb(a)) FROM sandbox.audit_log a
             UNION ALL SELECT concat('lease ', to_jsonb(l)) FROM sandbox.leases l
              WHERE name LIKE 'sandbox.reconcile/%'
             ORDER BY 1",
        )
        .fetch_all(&mut db)
        .await
        .unwrap()
    }

    /// Returns the epoch of the reconciler's lease; 0 before the first.
    async fn epoch(&self) -> i64 {
        let query =
            "SELECT coalesce(max(epoch), 0) FROM sandbox.leases WHERE name LIKE 'sandbox.reconcile/%'";
        sqlx::query_scalar(query).fetch_one(&mut self.db().await).await.unwrap()
    }

    async fn until_epoch_above(&self, seen: i64) {
        let look = async || (self.epoch().await > seen).then_some(());
        eventually("the lease is taken", SOON, look).await;
    }

    /// Returns a column of a sandbox's row as text; `None` without a row.
    async fn column(&self, sandbox: &str, column: &str) -> Option<String> {
        let query =
            format!("SELECT to_jsonb(s) ->> '{column}' FROM sandbox.sandboxes s WHERE id = '{sandbox}'");
        let row: Option<Option<String>> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_optional(&mut self.db().await)
            .await
            .unwrap();
        row.flatten()
    }

    async fn until_state(&self, sandbox: &str, state: &str) {
        let look = async || (self.column(sandbox, "state").await.as_deref() == Some(state)).then_some(());
        eventually(format!("{sandbox} is {state}"), SOON, look).await;
    }

    /// Requests a sandbox for a new session and returns its id.
    async fn request(&self) -> String {
        let session = self.tenant.session().await;
        let look = async || {
            // A suspended replica does not answer and a starting one may refuse, so the row decides whether
            // the sandbox was requested.
            let body = json!({ "sessionId": session });
            let post = self.tenant.api.post("/v1/sandboxes", &body);
            let _answer = tokio::time::timeout(Duration::from_secs(2), post).await;
            let row =
                sqlx::query_scalar("SELECT id::text FROM sandbox.sandboxes WHERE session_id = $1::uuid");
            row.bind(&session).fetch_optional(&mut self.db().await).await.unwrap()
        };
        eventually("a sandbox is requested", SOON, look).await.0
    }

    async fn delete(&self, sandbox: &str) {
        let path = format!("/v1/sandboxes/{sandbox}");
        eventually("it is deleted", SOON, async || self.tenant.api.delete(&path).await.ok()).await;
        self.until_state(sandbox, "gone").await;
    }

    async fn running(&self) -> String {
        let sandbox = self.request().await;
        self.until_state(&sandbox, "running").await;
        sandbox
    }

    /// Creates and deletes a sandbox. Returns its id once its volume is removed too.
    async fn gone(&self) -> String {
        let sandbox = self.running().await;
        self.delete(&sandbox).await;
        self.until_volumes_are_settled().await;
        sandbox
    }

    async fn until_volumes_are_settled(&self) {
        let query =
            "SELECT count(*) FROM sandbox.volumes WHERE state = 'removing' OR retain_until IS NOT NULL
                                                              AND state = 'live'";
        let look = async || {
            let left: i64 = sqlx::query_scalar(query).fetch_one(&mut self.db().await).await.unwrap();
            (left == 0).then_some(())
        };
        eventually("no workspace is about to go", SOON, look).await;
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("docker");
        command.args(["--host", self.cluster.engine.host()]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn engine_id(&self) -> String {
        self.docker(&["info", "--format", "{{.ID}}"])
    }

    fn run_dirs(&self) -> PathBuf {
        self.cluster.home().join("state/sandbox")
    }

    /// Names of run directories, including revoked ones.
    fn run_dir_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.run_dirs()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Lists everything outside Postgres: containers with their states, volumes, run directories.
    async fn objects(&self) -> Vec<String> {
        let mut objects: Vec<String> = self.run_dir_names();
        let containers = self.cluster.containers().await;
        objects.extend(containers.into_iter().map(|found| format!("{} {}", found.name, found.state)));
        objects.extend(self.cluster.volumes().await.into_iter().map(|found| found.name));
        objects.sort();
        objects
    }

    /// Lists the objects that have one of these parts in their name.
    async fn traces(&self, parts: &[&str]) -> Vec<String> {
        let mut objects = self.objects().await;
        objects.retain(|object| parts.iter().any(|part| object.contains(part)));
        objects
    }

    /// Lists the events of this installation's containers since the time `since`, as "create steward-…-2".
    fn events(&self, since: SystemTime) -> Vec<String> {
        let seconds = |at: SystemTime| {
            let since = at.duration_since(UNIX_EPOCH).unwrap();
            format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
        };
        let label = format!("label={}", self.cluster.label());
        let (since, until) = (seconds(since), seconds(SystemTime::now()));
        let filters = ["--filter", "type=container", "--filter", &label];
        let window = ["--since", &since, "--until", &until, "--format", "{{json .}}"];
        let lines = self.docker(&[&["events"], &filters[..], &window[..]].concat());
        let event = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            format!("{} {}", text(&event["Action"]), text(&event["Actor"]["Attributes"]["name"]))
        };
        lines.lines().map(event).collect()
    }

    /// Counts how often "sandbox" has logged `text` since it was started.
    fn logged(&mut self, text: &str) -> usize {
        count(self.cluster.process("sandbox").log_file(), text)
    }

    async fn row(&self, sandbox: &str) -> Vec<String> {
        let rows = self.rows().await;
        rows.into_iter().filter(|row| row.starts_with("sandbox ") && row.contains(sandbox)).collect()
    }
}

/// The kinds of object that a reconciler acts on.
#[derive(Debug, Clone, Copy)]
enum Stray {
    /// A container without a row; the reconciler would write a row.
    Orphan,
    /// A container with a final row; the reconciler would remove it.
    Leftover,
    /// A row of a running sandbox without its container; the reconciler would mark the row gone.
    Lost,
    /// A run directory that no row names; the reconciler would remove the directory.
    RunDirectory,
    /// A volume without a row; the reconciler would write a row.
    Volume,
    /// A volume with a final row; the reconciler would remove it.
    LateVolume,
}

impl Stray {
    const ALL: [Self; 6] =
        [Self::Orphan, Self::Leftover, Self::Lost, Self::RunDirectory, Self::Volume, Self::LateVolume];

    /// Prepares what [`Self::plant`] needs and returns the id of the sandbox, volume or directory.
    async fn prepare(self, scene: &Scene) -> String {
        match self {
            Self::Orphan | Self::Volume => new_id().to_string(),
            Self::RunDirectory => new_id().simple().to_string(),
            Self::Leftover | Self::LateVolume => scene.gone().await,
            Self::Lost => scene.running().await,
        }
    }

    async fn plant(self, scene: &Scene, id: &str) {
        let engine = format!("steward.engine={}", scene.engine_id());
        let installation = scene.cluster.label();
        let labels = ["--label", &installation, "--label", &engine];
        let container = |generation: &str| {
            let name = format!("steward-{id}-{generation}");
            let (sandbox, generation) =
                (format!("steward.sandbox={id}"), format!("steward.generation={generation}"));
            let own = ["--name", &name, "--label", &sandbox, "--label", &generation];
            let image = image(scene.cluster.engine.host());
            scene.docker(&[&["create"], &labels[..], &own[..], &[&image, "/bin/true"]].concat());
        };
        let volume = |id: &str| {
            let (name, label) = (format!("steward-workspace-{id}"), format!("steward.volume={id}"));
            scene.docker(&[&["volume", "create"], &labels[..], &["--label", &label, &name]].concat());
        };
        match self {
            Self::Orphan => container("2"),
            Self::Leftover => container(&scene.column(id, "container_generation").await.unwrap()),
            Self::Lost => {
                drop(scene.docker(&["rm", "--force", &scene.column(id, "container_id").await.unwrap()]))
            }
            Self::RunDirectory => {
                let path = scene.run_dirs().join(id);
                fs::create_dir(&path).unwrap();
                let long_ago = SystemTime::now() - Duration::from_secs(3600);
                fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
            }
            Self::Volume => volume(id),
            Self::LateVolume => volume(&scene.column(id, "volume_id").await.unwrap()),
        }
    }

    /// Returns whether the reconciler has acted on the object.
    async fn is_settled(self, scene: &Scene, id: &str) -> bool {
        let state = scene.column(id, "state").await;
        let objects = scene.objects().await;
        let none_of = |part: &str| !objects.iter().any(|object| object.contains(part));
        match self {
            Self::Orphan | Self::Lost => state.as_deref() == Some("gone") && none_of(id),
            Self::Leftover | Self::RunDirectory | Self::Volume => none_of(id),
            Self::LateVolume => none_of(&scene.column(id, "volume_id").await.unwrap()),
        }
    }
}

/// Part of the log line of a reconciler that lost its lease, so that its write was refused.
const REFUSED: &str = "lease sandbox.reconcile";
/// Log lines that "sandbox" would have written if it had acted.
const ACTS: [&str; 4] = [
    "container without a row found",
    "container outlived its row",
    "workspace without a row found",
    "workspace outlived its row",
];

#[tokio::test]
async fn a_reconciler_stopped_past_its_lease_changes_nothing() {
    let rounds = rounds("reconciler", 4);
    let (mut chance, seed) = chance();
    let mut scene = scene("reconcile.lease = '3s'").await;
    let mut in_the_act = 0;
    for round in 0..rounds {
        let stray = Stray::ALL[round % Stray::ALL.len()];
        // A fail point suspends "sandbox" in the middle of a pass, when it is about to act on an object that
        // it saw in two passes. In every fourth round SIGSTOP suspends it at a random moment.
        let act = round % 4 != 3;
        in_the_act += usize::from(act);
        let anywhere = Duration::from_millis(chance.random_range(0..3000));
        scene.stopped_and_woken(stray, (!act).then_some(anywhere)).await;
    }
    report(
        "reconciler",
        format_args!(
            "{rounds} stops past the lease, {in_the_act} of them in the act, nothing stale done, seed {seed}"
        ),
    );
    scene.cluster.stop().await;
}

impl Scene {
    /// Does one round: "sandbox" holds the lease and is suspended, by a fail point when it is about to act on
    /// `stray`, or by SIGSTOP after the time `anywhere`; "sandbox-2" takes the lease; "sandbox" resumes
    /// before "sandbox-2" acts.
    async fn stopped_and_woken(&mut self, stray: Stray, anywhere: Option<Duration>) {
        let seen = self.kill_both().await;
        self.cluster.process("sandbox").arm("sandbox.reconcile.acting=stop");
        self.cluster.process("sandbox").run();
        self.until_epoch_above(seen).await;
        self.cluster.process("sandbox-2").arm(HELD);
        self.cluster.process("sandbox-2").run();
        self.cluster.plane.until_ready(SOON).await.unwrap();
        let id = stray.prepare(self).await;
        stray.plant(self, &id).await;

        match anywhere {
            None => self.cluster.process("sandbox").until_stopped(SOON).await,
            Some(pause) => {
                tokio::time::sleep(pause).await;
                self.cluster.process("sandbox").freeze();
            }
        }
        let stale = self.epoch().await;
        self.until_epoch_above(stale).await;
        let (rows, objects, since) = (self.rows().await, self.objects().await, SystemTime::now());
        let refused = self.logged(REFUSED);
        self.cluster.process("sandbox").thaw();
        if anywhere.is_none() {
            let log = self.cluster.process("sandbox").log_file().to_owned();
            let look = async || (count(&log, REFUSED) > refused).then_some(());
            eventually("the sleeper finds its lease lost", SOON, look).await;
        }
        self.until_awake().await;
        assert_eq!(self.rows().await, rows, "{stray:?}: rows changed\n{}", self.cluster.logs());
        assert_eq!(self.objects().await, objects, "{stray:?}\n{}", self.cluster.logs());
        assert_eq!(self.events(since), Vec::<String>::new(), "{stray:?}\n{}", self.cluster.logs());

        // "sandbox-2", which holds the lease, acts.
        let look = async || stray.is_settled(self, &id).await.then_some(());
        eventually(format!("{stray:?} is settled"), SOON, look).await;
        assert_eq!(self.epoch().await, stale + 1, "{stray:?}: the lease was taken again");
        for act in ACTS {
            assert_eq!(self.logged(act), 0, "{stray:?}\n{}", self.cluster.process("sandbox").log());
        }
    }
}

impl Scene {
    /// Waits until "sandbox" answers again. If SIGSTOP suspended it before it reached the armed fail point,
    /// the fail point suspends it once more; then it is resumed again.
    async fn until_awake(&mut self) {
        let woken = Instant::now();
        while let Err(error) = self.cluster.plane.until_ready(Duration::from_secs(1)).await {
            assert!(woken.elapsed() < SOON, "{error:#}\n{}", self.cluster.logs());
            let sleeper = self.cluster.process("sandbox");
            if sleeper.is_stopped() {
                sleeper.thaw();
            }
        }
    }
}

fn count(log: &Path, text: &str) -> usize {
    fs::read_to_string(log).unwrap().lines().filter(|line| line.contains(text)).count()
}
