//! A directory of OpenLDAP for the tests of one function, over loopback.

use hyper_server::auth::LdapOptions;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SUFFIX: &str = "dc=example,dc=com";
const ADMIN: &str = "cn=admin,dc=example,dc=com";
pub(super) const ACCOUNT: &str = "cn=registry,ou=services,dc=example,dc=com";
pub(super) const PEOPLE: &str = "ou=people,dc=example,dc=com";
pub(super) const GROUPS: &str = "ou=groups,dc=example,dc=com";
const SECRET: &str = "s3cret-of-the-account";

/// A directory with the users `ada`, `bob` and `eve`; ended when it is dropped.
pub(super) struct Slapd {
    process: Child,
    folder: TempDir,
    pub(super) plain: u16,
    pub(super) tls: u16,
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/lib/openldap"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// An authority in `ca.crt` and a server's certificate of it, and another authority in `other.crt`.
fn certificates(folder: &Path) {
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    };
    let ((ca, ca_pem), (_, other_pem), key) = (authority(), authority(), KeyPair::generate().unwrap());
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    for (name, text) in [
        ("ca.crt", ca_pem),
        ("other.crt", other_pem),
        ("server.crt", server.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn configuration(folder: &Path) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut text = String::new();
    for schema in ["core", "cosine", "inetorgperson"] {
        let _ = writeln!(text, "include /etc/ldap/schema/{schema}.schema");
    }
    let _ = writeln!(text, "modulepath /usr/lib/ldap");
    for module in ["back_mdb", "memberof", "ppolicy"] {
        let _ = writeln!(text, "moduleload {module}");
    }
    for (key, name) in
        [("CACertificate", "ca.crt"), ("Certificate", "server.crt"), ("CertificateKey", "server.key")]
    {
        let _ = writeln!(text, "TLS{key}File {}", at(name));
    }
    let _ = write!(
        text,
        "pidfile {}\ndatabase mdb\nsuffix \"{SUFFIX}\"\nrootdn \"{ADMIN}\"\nrootpw admin\ndirectory {}\nmaxsize 16777216\n\
         overlay memberof\noverlay ppolicy\n\
         access to attrs=userPassword by anonymous auth by * none\n\
         access to * by dn.exact=\"{ACCOUNT}\" read by self read by * none\n",
        at("pid"),
        at("db"),
    );
    text
}

fn entries() -> String {
    let mut text =
        format!("dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\no: e\ndc: example\n\n");
    for unit in ["people", "groups", "services"] {
        let _ = write!(text, "dn: ou={unit},{SUFFIX}\nobjectClass: organizationalUnit\nou: {unit}\n\n");
    }
    let _ = write!(text, "dn: ou=mine,{GROUPS}\nobjectClass: organizationalUnit\nou: mine\n\n");
    let _ = write!(
        text,
        "dn: {ACCOUNT}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: registry\nuserPassword: {SECRET}\n\n"
    );
    for user in ["ada", "bob", "eve"] {
        let _ = write!(
            text,
            "dn: uid={user},{PEOPLE}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: x\nmail: {user}@example.com\nuserPassword: pw-{user}\n\n"
        );
    }
    // Two entries for one address.
    let _ = write!(
        text,
        "dn: uid=twin,{PEOPLE}\nobjectClass: inetOrgPerson\nuid: twin\ncn: t\nsn: x\nmail: eve@example.com\nuserPassword: pw-eve\n\n"
    );
    for (group, members) in [
        (format!("cn=writers,{GROUPS}"), ["ada", "bob"]),
        (format!("cn=writers,ou=mine,{GROUPS}"), ["eve", "eve"]),
    ] {
        let name = group.split(['=', ',']).nth(1).unwrap().to_owned();
        let _ = write!(text, "dn: {group}\nobjectClass: groupOfNames\ncn: {name}\n");
        let members: std::collections::BTreeSet<_> = members.into_iter().collect();
        for user in members {
            let _ = writeln!(text, "member: uid={user},{PEOPLE}");
        }
        text.push('\n');
    }
    text
}

impl Slapd {
    /// Starts a directory; `None`, said loudly, where there is no OpenLDAP.
    pub(super) fn start(test: &str) -> Option<Self> {
        let (Some(slapd), Some(_)) = (program("slapd"), program("ldapmodify")) else {
            println!("SKIPPED: {test}: slapd or ldapmodify is not installed");
            return None;
        };
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        certificates(folder.path());
        std::fs::create_dir(at("db")).unwrap();
        std::fs::write(at("slapd.conf"), configuration(folder.path())).unwrap();
        std::fs::write(at("password"), format!("{SECRET}\n")).unwrap();
        let (plain, tls) = (free_port(), free_port());
        let process = Self::process(&slapd, &at("slapd.conf"), plain, tls);
        let started = Self { process, folder, plain, tls };
        started.wait();
        started.modify(&entries(), &["-a"]);
        Some(started)
    }

    fn process(slapd: &Path, file: &Path, plain: u16, tls: u16) -> Child {
        let addresses = format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}");
        let mut command = Command::new(slapd);
        command.arg("-f").arg(file).args(["-h", &addresses, "-d", "0"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn wait(&self) {
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.tls)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "slapd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the directory, for as long as nobody starts it again.
    pub(super) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again with what it had.
    pub(super) fn start_again(&mut self) {
        let file = self.folder.path().join("slapd.conf");
        self.process = Self::process(&program("slapd").unwrap(), &file, self.plain, self.tls);
        self.wait();
    }

    /// Changes entries (LDIF).
    pub(super) fn modify(&self, text: &str, flags: &[&str]) {
        let url = format!("ldap://127.0.0.1:{}", self.plain);
        let mut command = Command::new(program("ldapmodify").unwrap());
        command.args(["-x", "-H", &url, "-D", ADMIN, "-w", "admin"]).args(flags);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Gives a user another password.
    pub(super) fn set_password(&self, user: &str, password: &str) {
        self.modify(&format!("dn: uid={user},{PEOPLE}\nchangetype: modify\nreplace: userPassword\nuserPassword: {password}\n"), &[]);
    }

    /// Removes a user.
    pub(super) fn remove(&self, user: &str) {
        self.modify(&format!("dn: uid={user},{PEOPLE}\nchangetype: delete\n"), &[]);
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Without TLS, as loopback may be. Nothing is known for longer than an answer takes.
    pub(super) fn options(&self) -> LdapOptions {
        LdapOptions {
            start_tls: Some(false),
            bind_dn: Some(ACCOUNT.to_owned()),
            bind_password_file: Some(self.file("password")),
            base: Some(PEOPLE.to_owned()),
            group_attribute: Some("memberOf".to_owned()),
            group_base: Some(GROUPS.to_owned()),
            cache: Duration::ZERO,
            time: Duration::from_secs(3),
            ..LdapOptions::new(format!("ldap://127.0.0.1:{}", self.plain))
        }
    }
}
