//! The same attempts in a unit of systemd that is hardened as far as a web application allows.
//!
//! It takes `systemd-box`, which boots a systemd in namespaces of its own: found by `SYSTEMD_BOX`, or on the PATH.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::rows::Found;
use super::stage::{MALLORY, VICTIM, World, attempts, own, run};
use super::support::{Bed, skip, tools};

/// As far as a web application allows that talks to a database over the network.
const HARDENED: &str = "NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=/srv/mallory
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateIPC=yes
PrivateUsers=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
ProcSubset=pid
CapabilityBoundingSet=
AmbientCapabilities=
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
KeyringMode=private
RemoveIPC=yes
MemoryMax=64M
TasksMax=64
CPUQuota=20%
TimeoutStopSec=1
";

/// Inside of the box: the victim, then the attacker; then whether anything of it stays after its stop.
const SCRIPT: &str = r#"set -e
/srv/hostile loopback
for user in mallory:61666 victim:61777; do
    echo "${user%:*}:x:${user#*:}:${user#*:}::/nonexistent:/bin/sh" >> /etc/passwd
    echo "${user%:*}:x:${user#*:}:" >> /etc/group
done
systemctl daemon-reload
systemctl start victim
await() {
    n=0
    until grep -qs "$1" "/srv/$2.out"; do
        n=$((n + 1))
        [ $n -lt 3000 ] && systemctl -q is-active "$2" || { systemctl status "$2"; cat "/srv/$2.out"; exit 1; }
        sleep 0.1
    done
}
await "victim: ready" victim
sed -i "s/VICTIM/$(systemctl show -p MainPID --value victim)/" /etc/systemd/system/mallory.service
systemctl daemon-reload
touch /srv/mallory.out
chmod 600 /srv/mallory.out
systemctl start mallory
await "hostile done" mallory
systemctl stop mallory
for line in /proc/[0-9]*/cmdline; do
    case "$(tr '\0' ' ' < "$line" 2> /dev/null)" in
        */hostile\ daemon\ *) left=succeeded ;;
    esac
done
cat /srv/mallory.out
echo "hostile daemon-left ${left-nothing}"
"#;

/// What the attempts came to; `None`, and a line that says why, where there is no box.
pub(crate) fn found() -> Option<Found> {
    let tool = std::env::var_os("SYSTEMD_BOX").map(PathBuf::from).or_else(|| tools::on_path("systemd-box"));
    let Some(tool) = tool else {
        skip("systemd-box is not on the PATH, nor named by SYSTEMD_BOX");
        return None;
    };
    let bed = Bed::new();
    let world = World::new(&bed, MALLORY, VICTIM);
    let unit = |name: &str, uid: u32, words: &str, more: &str| {
        let text = format!(
            "[Service]\nUser={uid}\nGroup={uid}\nExecStart=/srv/{name}/hostile {words} place=/srv own=/srv/{name} \
             port=8100\nStandardOutput=append:/srv/{name}.out\nStandardError=inherit\n{more}"
        );
        bed.write(format!("{name}.service"), text);
    };
    unit("victim", VICTIM, "victim", "");
    let words = format!("attack victim=VICTIM emperor=1 vassals=/srv/{} uid={VICTIM}", world.vassals);
    unit("mallory", MALLORY, &words, HARDENED);
    bed.write(format!("srv/{}/victim.ini", world.vassals), "[uwsgi]\n");
    let ini = world.srv.join(&world.vassals).join("victim.ini");
    super::stage::mode(&ini, 0o600);
    own(ini, VICTIM);
    bed.write("inside", SCRIPT);
    let name = bed.root().file_name().expect("a name").to_owned();
    let boxed = Box { tool, name: name.to_str().expect("a plain name").replace('.', "-") };
    let bind = |from: &Path, to: &str| format!("{}:{to}", from.display());
    boxed.call(&[
        "start",
        &boxed.name,
        "--bind",
        &bind(&world.srv, "/srv"),
        "--bind",
        &bind(&world.home, "/home"),
        "--bind",
        &bind(&world.home.join("root"), "/root"),
    ]);
    for file in ["victim.service", "mallory.service", "inside"] {
        let to = if file == "inside" { "/run/inside".into() } else { format!("/etc/systemd/system/{file}") };
        boxed.call(&["copy", &boxed.name, bed.path(file).to_str().expect("plain text"), &to]);
    }
    let log = boxed.call(&["exec", &boxed.name, "--", "sh", "/run/inside"]);
    fs::write(bed.path("unit.log"), &log).expect("a file");
    assert!(log.contains(&format!("hostile done {MALLORY}\n")), "{log}");
    Some(attempts("hostile", &log))
}

/// A systemd, which is stopped when this is dropped.
struct Box {
    tool: PathBuf,
    name: String,
}

impl Box {
    fn call(&self, words: &[&str]) -> String {
        run(&self.tool, &words.iter().map(OsStr::new).collect::<Vec<_>>())
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        let _ = std::process::Command::new(&self.tool).args(["stop", &self.name]).status();
    }
}
