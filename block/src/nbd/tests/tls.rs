//! TLS, with certificates made for the test.

use std::path::Path;

use futures_executor::block_on;

use super::support::*;
use crate::nbd::{Client, ClientOptions, ClientTls, Server, ServerOptions, ServerTls, Target, TlsError};
use crate::{Error, IoVector};

const EXTENSIONS: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// A folder with credentials for both sides, as `tls-creds-x509` has them.
fn credentials() -> Place {
    let place = Place::new();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let paths = |name: &str| (place.path(&format!("{name}-key.pem")), place.path(&format!("{name}-cert.pem")));
    let (ca_key, ca_cert) = paths("ca");
    let authority = ["-subj", "/CN=an authority for tests", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    let out = ["-x509", "-days", "30", "-keyout", &ca_key, "-out", &ca_cert];
    run("openssl", &[&["req"][..], &key, &out, &authority].concat());
    for side in ["server", "client"] {
        let ((key_path, cert), request) = (paths(side), place.path("request"));
        let subject = ["-subj", "/CN=localhost", "-addext", EXTENSIONS, "-keyout", &key_path, "-out", &request];
        run("openssl", &[&["req", "-new"][..], &key, &subject].concat());
        let sign = ["x509", "-req", "-days", "30", "-in", &request, "-CA", &ca_cert, "-CAkey", &ca_key];
        run("openssl", &[&sign[..], &["-CAcreateserial", "-copy_extensions", "copyall", "-out", &cert]].concat());
    }
    place
}

fn folder(credentials: &Place) -> String {
    credentials.path("")
}

fn client_options(server: &Server, tls: ClientTls) -> ClientOptions {
    let target = Target { tls: true, ..Target::new(server.address().clone(), "disk") };
    ClientOptions { tls: Some(tls), ..ClientOptions::new(target) }
}

fn attempt(options: ClientOptions) -> Result<Client, Error> {
    soon("connect", Client::connect(options))
}

#[test]
fn our_server_with_tls() {
    let (place, credentials) = (Place::new(), credentials());
    let folder = folder(&credentials);
    let content = pattern(1 << 20, 60);
    let path = place.file("disk", &content);
    for address in [any_port(), place.address()] {
        let tls = Some(ServerTls::load(Path::new(&folder), true).unwrap());
        let server = block_on(Server::start(&address, ServerOptions { tls, ..ServerOptions::default() })).unwrap();
        server.add(writable("disk", disk(&path, false))).unwrap();
        let ours = attempt(client_options(&server, ClientTls::load(Path::new(&folder), "localhost").unwrap())).unwrap();
        let memory = IoVector::zeroed(content.len());
        soon("read", crate::Driver::read(&ours, 0, memory.clone())).unwrap();
        assert!(memory.to_vec() == content);
        drop(ours);
        // Not for the one whom the certificate is for.
        let error = attempt(client_options(&server, ClientTls::load(Path::new(&folder), "example.org").unwrap()));
        assert!(error.is_err_and(|error| error.to_string().contains("certificate")));
        // Without TLS.
        let error = attempt(ClientOptions::new(Target::new(server.address().clone(), "disk")));
        assert!(error.is_err_and(|error| error.to_string().contains("TLS is required")));
        if let crate::nbd::Address::Tcp { port, .. } = server.address() {
            let object = format!("tls-creds-x509,id=t,dir={folder},endpoint=client");
            let image = format!("driver=nbd,host=localhost,port={port},export=disk,tls-creds=t");
            run("qemu-img", &["info", "--object", &object, "--image-opts", &image]);
            let uri = format!("nbds://localhost:{port}/disk?tls-certificates={folder}");
            let info = run("nbdinfo", &["--json", &uri]);
            assert!(info.contains("\"TLS\": true"), "{info}");
            assert!(!output("qemu-img", &["info", &format!("nbd://localhost:{port}/disk")]).status.success());
        }
        block_on(server.stop());
    }
}

#[test]
fn clients_without_a_certificate() {
    let (place, credentials) = (Place::new(), credentials());
    let path = place.file("disk", &[7; 4096]);
    let nameless = Place::new();
    std::fs::copy(credentials.path("ca-cert.pem"), nameless.path("ca-cert.pem")).unwrap();
    for (verify_peer, expected) in [(true, false), (false, true)] {
        let tls = Some(ServerTls::load(Path::new(&folder(&credentials)), verify_peer).unwrap());
        let server = block_on(Server::start(&any_port(), ServerOptions { tls, ..ServerOptions::default() })).unwrap();
        server.add(writable("disk", disk(&path, false))).unwrap();
        let tls = ClientTls::load(Path::new(&folder(&nameless)), "127.0.0.1").unwrap();
        assert_eq!(attempt(client_options(&server, tls)).is_ok(), expected, "{verify_peer}");
        block_on(server.stop());
    }
}

#[test]
fn qemu_nbd_with_tls() {
    let (place, credentials) = (Place::new(), credentials());
    let folder = folder(&credentials);
    let path = place.file("disk", &pattern(1 << 20, 61));
    let object = format!("tls-creds-x509,id=t,dir={folder},endpoint=server,verify-peer=yes");
    let more = ["--object", &object, "--tls-creds", "t", "-x", "disk"];
    let (_server, address) = Background::qemu_nbd_by_tcp(&path, &more);
    let tls = ClientTls::load(Path::new(&folder), "localhost").unwrap();
    let disk = connect(ClientOptions { tls: Some(tls), ..options(&address, "disk") });
    soon("write", disk.write(1000, IoVector::copy_of(&[9; 5000]))).unwrap();
    soon("close", disk.node().unwrap().close()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[1000..6000], [9; 5000]);
}

#[test]
fn credentials_that_cannot_be_used() {
    let credentials = credentials();
    let folder = folder(&credentials);
    let load = || ServerTls::load(Path::new(&folder), true).err().unwrap();
    assert!(matches!(ClientTls::load(Path::new(&folder), "no name"), Err(TlsError::HostName { .. })));
    // The key of another.
    std::fs::copy(credentials.path("client-key.pem"), credentials.path("server-key.pem")).unwrap();
    assert!(matches!(load(), TlsError::Credentials { .. }));
    std::fs::write(credentials.path("server-key.pem"), "nothing").unwrap();
    assert!(matches!(load(), TlsError::File { .. }));
    std::fs::remove_file(credentials.path("server-key.pem")).unwrap();
    let error = load().to_string();
    assert!(error.contains("server-key.pem': No such file or directory"), "{error}");
}
