//! Child processes: this test binary started again, with a role in its environment.
//!
//! A role is an ignored test; the parent starts the binary with exactly that test, talks to it in lines over its standard input and
//! output, and kills it when it is dropped.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Set in a child to the argument of its role; roles do nothing without it.
const ROLE: &str = "SINEW_TEST_ROLE";
/// Lines of a child's role begin with this; the test harness prints lines of its own.
const MARK: &str = "@@";

/// A child process; killed when dropped.
pub(crate) struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Role {
    /// Starts `test` (its path within the binary) with `argument`.
    pub(crate) fn start(test: &str, argument: &str) -> Self {
        Self::start_with(test, argument, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn start_with(test: &str, argument: &str, environment: &[(&str, &str)]) -> Self {
        // As many descriptors as the system lets it have.
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -S -n \"$(ulimit -H -n)\" 2>/dev/null; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, argument)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// The next line that the role says; blocks. `None` when it ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).ok()? == 0 {
                return None;
            }
            // The harness may have printed the test's name in front of it, without a line break.
            if let Some((_, said)) = line.split_once(MARK) {
                return Some(said.trim().to_owned());
            }
        }
    }

    /// The next line, in an async test.
    pub(crate) async fn listen(mut self) -> (Self, Option<String>) {
        tokio::task::spawn_blocking(move || {
            let line = self.hear();
            (self, line)
        })
        .await
        .unwrap()
    }

    /// Lets the role go on: it waits for its input to end.
    pub(crate) fn release(&mut self) {
        self.stdin = None;
    }

    /// Writes a line to the role.
    pub(crate) fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            writeln!(stdin, "{line}").unwrap();
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process at once, as SIGKILL does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal, named without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the role to end; true if it ended well.
    pub(crate) fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The argument of this process's role; `None` in a process that has none.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Says a line to the parent.
pub(crate) fn say(line: &str) {
    // Not by `println!`, which the harness may capture.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{line}").unwrap();
    out.flush().unwrap();
}

/// Waits until the parent lets the role go on.
pub(crate) async fn released() {
    tokio::task::spawn_blocking(|| {
        let mut rest = String::new();
        while std::io::stdin().read_line(&mut rest).is_ok_and(|read| read > 0) {}
    })
    .await
    .unwrap();
}
