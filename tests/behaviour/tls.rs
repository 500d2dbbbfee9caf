//! Calls over TLS: who is let in, what failures say, and certificates that change under load. The interop cases run over TLS, too (`interop`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rcgen::{SanType, date_time_ymd};
use sinew::limits::{peer, rate_limit};
use sinew::{
    Channel, ClientTls, Code, Cx, Drain, Next, Outcome, Priority, Server, ServerTls, Status, interceptor, service,
};

use crate::support::bounded;
use crate::support::certs::Authority;
use crate::support::child::{Role, released, role, say};
use crate::support::fixture::unique;

#[service]
trait Till {
    async fn whoami(&self, cx: &Cx) -> String;
    async fn open(&self) -> Result<String, Status>;
    async fn priority(&self, cx: &Cx) -> String;
    async fn once_each(&self) -> String;
}

struct Shop;

/// Lets in whoever proved to be the cashier.
#[interceptor]
async fn only_cashiers(cx: &mut Cx, next: impl Next) -> Outcome {
    let is_cashier = cx
        .peer()
        .and_then(|peer| peer.identity())
        .is_some_and(|identity| identity.uris().iter().any(|uri| uri == "spiffe://shop/cashier"));
    if !is_cashier {
        return Err(Status::permission_denied("cashiers only"));
    }
    next.run(cx).await
}

#[service]
impl Till for Shop {
    async fn whoami(&self, cx: &Cx) -> String {
        let identity = cx.peer().and_then(|peer| peer.identity());
        identity.map_or_else(|| "nobody".to_owned(), |identity| identity.uris().join(","))
    }

    #[interceptor(only_cashiers)]
    async fn open(&self) -> Result<String, Status> {
        Ok("open".to_owned())
    }

    async fn priority(&self, cx: &Cx) -> String {
        cx.priority().to_string()
    }

    #[interceptor(rate_limit(1, per = "1h", key = peer))]
    async fn once_each(&self) -> String {
        "once".to_owned()
    }
}

fn builder() -> sinew::ServerBuilder {
    Server::builder().service(TillServer::new(Shop)).drain(Drain::default().lame_duck("0s"))
}

/// The message of the failure to connect.
async fn refusal(tls: ClientTls, target: &str) -> String {
    let error = Channel::builder().tls(tls).connect(target).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    error.message().to_owned()
}

#[tokio::test]
async fn handlers_see_who_calls() {
    let (authority, clients) = (Authority::shared(), Authority::new("clients"));
    for address in ["tls://127.0.0.1:0", "quic://127.0.0.1:0"] {
        let tls = authority.server().client_roots_pem(clients.pem()).unwrap();
        let server = builder().tls(tls).bind(address).start().await.unwrap();
        let named = |uri: &str| {
            let (chain, key) = clients.sign_with(&["till.internal"], |params| {
                params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
            });
            let tls = authority.client().identity_pem(chain, key).unwrap();
            TillClient::from_channel(Channel::builder().tls(tls).lazy(&server.target()).unwrap())
        };
        let cashier = named("spiffe://shop/cashier");
        assert_eq!(cashier.whoami().await.unwrap(), "spiffe://shop/cashier");
        assert_eq!(cashier.open().await.unwrap(), "open");
        let guest = named("spiffe://shop/guest");
        assert_eq!(guest.open().await.unwrap_err().code(), Code::PermissionDenied);
        // Who proved who they are is taken at their word.
        assert_eq!(guest.priority().priority(Priority::Critical).await.unwrap(), "critical");
        // And counts by their name, whatever connection they come by, and for themselves.
        assert_eq!(cashier.once_each().await.unwrap(), "once");
        let again = named("spiffe://shop/cashier").once_each().await.unwrap_err();
        assert_eq!(
            (again.code(), again.policy()),
            (Code::ResourceExhausted, Some("rate_limit"))
        );
        assert_eq!(guest.once_each().await.unwrap(), "once");
        server.shutdown().await;
    }
}

#[tokio::test]
async fn failures_to_connect_name_their_cause() {
    let authority = Authority::shared();
    let server = builder().tls(authority.server()).bind("tls://127.0.0.1:0").start().await.unwrap();
    let stranger = Authority::new("stranger").client();
    let message = refusal(stranger, &server.target()).await;
    assert!(message.contains("signed by nobody that this side trusts"), "{message}");
    let message = refusal(
        authority.client().server_name("orders.internal").unwrap(),
        &server.target(),
    )
    .await;
    assert!(message.contains("for other names than the one called"), "{message}");

    let (chain, key) = authority.sign_with(&["localhost", "127.0.0.1"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let old = builder()
        .tls(ServerTls::from_pem(chain, key).unwrap())
        .bind("tls://127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let message = refusal(authority.client(), &old.target()).await;
    assert!(message.contains("has expired"), "{message}");

    let strict = authority.server().client_roots_pem(authority.pem()).unwrap();
    let strict = builder().tls(strict).bind("tls://127.0.0.1:0").start().await.unwrap();
    let message = refusal(authority.client(), &strict.target()).await;
    assert!(message.contains("ClientTls::identity_pem"), "{message}");
}

#[tokio::test]
async fn clear_text_and_tls_do_not_meet_in_silence() {
    let authority = Authority::shared();
    let encrypted = builder().tls(authority.server()).bind("tls://127.0.0.1:0").start().await.unwrap();
    let plain = encrypted.target().replace("tls://", "tcp://");
    let error = Channel::builder().connect(&plain).await.unwrap_err();
    assert!(error.message().contains("it speaks TLS: call it by tls://"), "{error}");

    let clear = builder().bind("tcp://127.0.0.1:0").start().await.unwrap();
    let message = refusal(authority.client(), &clear.target().replace("tcp://", "tls://")).await;
    assert!(
        message.contains("does not speak TLS; use tls:// on both sides"),
        "{message}"
    );
}

#[tokio::test]
async fn settings_without_effect_are_errors() {
    let authority = Authority::shared();
    let error = builder().tls(authority.server()).bind("tcp://127.0.0.1:0").start().await.unwrap_err();
    assert!(error.to_string().contains("no address is encrypted"), "{error}");
    let error = Channel::builder().tls(authority.client()).lazy("tcp://127.0.0.1:1").unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("`.tls(..)` would do nothing"), "{error}");
    // Beyond loopback nobody but its owner can say which certificate to show.
    let error = builder().bind("tls://0.0.0.0:0").start().await.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(
        format!("{error} {cause}").contains("needs a certificate"),
        "{error}: {cause}"
    );
    let error = Server::builder().service(TillServer::new(Shop)).max_handshakes(0).start().await.unwrap_err();
    assert!(error.to_string().contains("max_handshakes"), "{error}");
}

#[tokio::test]
async fn one_server_listens_in_every_way_at_once() {
    let authority = Authority::shared();
    let unix = crate::support::fixture::socket_path();
    let server = builder()
        .tls(authority.server())
        .bind("tcp://127.0.0.1:0")
        .bind("tls://127.0.0.1:0")
        .bind("tls://[::1]:0")
        .bind("quic://127.0.0.1:0")
        .bind("quic://[::1]:0")
        .bind("quic+tcp://127.0.0.1:0")
        .bind(format!("unix:{}", unix.display()))
        .bind(format!("mem:{}", unique("everywhere")))
        .listener(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .tls_listener(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .start()
        .await
        .unwrap();
    assert_eq!(server.addresses().len(), 11);
    for address in server.addresses() {
        let target = address.to_string();
        let mut channel = Channel::builder();
        if address.is_encrypted() {
            channel = channel.tls(authority.client());
        }
        let client = TillClient::from_channel(channel.connect(&target).await.unwrap());
        assert_eq!(client.whoami().await.unwrap(), "nobody", "{target}");
    }
    server.shutdown().await;
}

/// New handshakes get the new certificate while calls run; none of them fails, and a bad file changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load() {
    bounded(async {
        let authority = Authority::shared();
        let folder = std::env::temp_dir().join(unique("sinew-rotation"));
        std::fs::create_dir_all(&folder).unwrap();
        let paths: [PathBuf; 2] = [folder.join("cert.pem"), folder.join("key.pem")];
        let put = |name: &str| {
            let (chain, key) = authority.sign(&["localhost", name]);
            std::fs::write(&paths[0], chain).unwrap();
            std::fs::write(&paths[1], key).unwrap();
        };
        put("number-0.internal");
        let tls = ServerTls::from_pem_files(&paths[0], &paths[1]).unwrap();
        let both = builder().tls(tls.clone()).bind("tls://localhost:0").bind("quic://localhost:0");
        let server = both.start().await.unwrap();
        let targets: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..8)
            .map(|number| {
                let (stop, calls, target) = (Arc::clone(&stop), Arc::clone(&calls), targets[number / 4].clone());
                tokio::spawn(async move {
                    let tls = || authority.client().server_name("localhost").unwrap();
                    let lasting = TillClient::from_channel(Channel::builder().tls(tls()).lazy(&target).unwrap());
                    while !stop.load(Ordering::SeqCst) {
                        lasting.whoami().await.unwrap();
                        if number % 2 == 0 {
                            let fresh = Channel::builder().tls(tls()).lazy(&target).unwrap();
                            TillClient::from_channel(fresh).whoami().await.unwrap();
                        }
                        calls.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let proves = async |name: &str| {
            let mut proved = Vec::new();
            for target in &targets {
                let tls = authority.client().server_name(name).unwrap();
                proved.push(Channel::builder().tls(tls).connect(target).await.is_ok());
            }
            assert_eq!(proved[0], proved[1], "TLS and QUIC show the same");
            proved[0]
        };
        for round in 1..=5 {
            let name = format!("number-{round}.internal");
            assert!(!proves(&name).await);
            put(&name);
            // A handshake may have looked before; either way it is shown now.
            let _is_new = tls.reload().unwrap();
            assert!(proves(&name).await, "new handshakes get the new one");
            std::fs::write(&paths[1], "nonsense").unwrap();
            tls.reload().unwrap_err();
            assert!(proves(&name).await, "a bad file changes nothing");
            let so_far = calls.load(Ordering::SeqCst);
            while calls.load(Ordering::SeqCst) < so_far + 20 {
                tokio::task::yield_now().await;
            }
        }
        stop.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.expect("no call fails");
        }
        server.shutdown().await;
        std::fs::remove_dir_all(&folder).unwrap();
    })
    .await;
}

/// Without any settings processes of one user talk over TLS on loopback; the authority is made on the way, for its owner's eyes only.
#[tokio::test]
async fn loopback_needs_no_settings() {
    let home = std::env::temp_dir().join(unique("sinew-home"));
    let environment = [("XDG_DATA_HOME", home.to_str().unwrap())];
    // Both begin at once, and make the authority at the same time.
    let started = [(); 2].map(|()| Role::start_with("tls::development_server", "", &environment));
    let mut servers = Vec::new();
    for role in started {
        let (role, target) = role.listen().await;
        servers.push((role, target.unwrap()));
    }
    let targets = format!("{} {}", servers[0].1, servers[1].1);
    let (mut client, answers) = Role::start_with("tls::development_client", &targets, &environment).listen().await;
    assert_eq!(answers.as_deref(), Some("nobody nobody"));
    assert!(client.wait());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = home.join("sinew/dev/authority-1.pem");
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Another user does not trust it.
    let elsewhere = std::env::temp_dir().join(unique("sinew-home"));
    let environment = [("XDG_DATA_HOME", elsewhere.to_str().unwrap())];
    let (_client, answers) = Role::start_with("tls::development_client", &targets, &environment).listen().await;
    assert!(answers.is_some_and(|error| error.contains("signed by nobody that this side trusts")));
    std::fs::remove_dir_all(home).unwrap();
    std::fs::remove_dir_all(elsewhere).unwrap();
}

#[tokio::test]
#[ignore = "a role of loopback_needs_no_settings"]
async fn development_server() {
    if role().is_none() {
        return;
    }
    let server = builder().bind("tls://127.0.0.1:0").start().await.unwrap();
    say(&server.target());
    released().await;
}

#[tokio::test]
#[ignore = "a role of loopback_needs_no_settings"]
async fn development_client() {
    let Some(targets) = role() else { return };
    let mut answers = Vec::new();
    for target in targets.split(' ') {
        let answer = match TillClient::connect(target).await {
            Ok(client) => client.whoami().await.unwrap(),
            Err(error) => error.message().to_owned(),
        };
        answers.push(answer);
    }
    say(&answers.join(" "));
}
