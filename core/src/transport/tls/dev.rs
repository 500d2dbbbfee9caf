//! Certificates for development: an authority of this user, made once, that is trusted on loopback and nowhere else.
//!
//! The authority's certificate and key lie in one file, readable by its user alone, so that two processes that make it at the same time end with one of
//! both, whole. It may sign for `localhost` and loopback addresses only, whoever gets hold of it.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints,
};
use rustls::pki_types::CertificateDer;

use super::certificates;
use super::error::TlsConfigError;

/// The file of the authority in the user's folder for data.
///
/// The number changes with the authority's own names, which are not read out of the file.
const FILE: &str = "sinew/dev/authority-1.pem";

fn failed(reason: impl std::fmt::Display) -> TlsConfigError {
    TlsConfigError::Development {
        reason: reason.to_string(),
    }
}

/// The authority's certificate, for clients; made if there is none.
pub(super) fn root() -> Result<CertificateDer<'static>, TlsConfigError> {
    let pem = authority(&path()?)?;
    let first = certificates("the development authority", pem.as_bytes())?.into_iter().next();
    first.ok_or_else(|| failed("the file of the authority holds no certificate"))
}

/// A certificate for loopback with its key, for servers, as PEM.
pub(super) fn leaf(local: IpAddr) -> Result<(String, String), TlsConfigError> {
    let pem = authority(&path()?)?;
    issue(&pem, local).map_err(failed)
}

fn issue(authority: &str, local: IpAddr) -> Result<(String, String), rcgen::Error> {
    let issuer = Issuer::new(authority_params(), KeyPair::from_pem(authority)?);
    // Any address of 127.0.0.0/8 may have been asked for.
    let names = [
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        local.to_string(),
    ];
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "sinew development server");
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "sinew development authority (loopback only)");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0])),
            GeneralSubtree::IpAddress(CidrSubnet::V6(
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                [255; 16],
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    params
}

fn path() -> Result<PathBuf, TlsConfigError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join(FILE))
        .ok_or_else(|| failed("neither XDG_DATA_HOME nor HOME names a folder to keep them in"))
}

/// Certificate and key of the authority at `path`, as PEM; made if there is none.
fn authority(path: &Path) -> Result<String, TlsConfigError> {
    let at = |error: io::Error| failed(format_args!("{}: {error}", path.display()));
    match read_private(path) {
        Ok(pem) => return Ok(pem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(error)),
    }
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = authority_params().self_signed(&key).map_err(failed)?;
    // The key first, because that is the block that is looked for when the file is read.
    let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
    create(path, &pem).map_err(at)?;
    // Another process may have been faster: what lies there now counts.
    read_private(path).map_err(at)
}

/// Puts a file there as a whole, unless there is one.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folders, 0o700);
    folders.create(folder)?;
    let unfinished = folder.join(format!("{}-{:016x}.tmp", std::process::id(), fastrand::u64(..)));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&unfinished).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| match fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    // If it was never made, what failed before is the error to tell.
    let _gone = fs::remove_file(&unfinished);
    linked
}

/// Reads a file that nobody but its owner can read.
fn read_private(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = file.metadata()?;
        // Where the system tells who this process is: another user's authority is not to be trusted, not even by root.
        if let Ok(own) = fs::metadata("/proc/self")
            && own.uid() != metadata.uid()
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it belongs to another user; set XDG_DATA_HOME to a folder of your own",
            ));
        }
        let mode = metadata.mode();
        if mode & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "others may read or write it (mode {:o}); set its mode to 600, or remove it and let it be made again",
                    mode & 0o777
                ),
            ));
        }
    }
    io::read_to_string(file)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{authority, issue};

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir()
            .join(format!("sinew-dev-{}-{name}", std::process::id()))
            .join("a/authority.pem")
    }

    #[test]
    fn it_is_made_once_and_signs() {
        let path = scratch("once");
        let made = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| authority(&path).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(made.iter().all(|pem| *pem == made[0]), "all of them got the same one");
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing unfinished is left: {left:?}");
        issue(&made[0], "127.0.0.2".parse().unwrap()).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap().parent().unwrap()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let path = scratch("modes");
        authority(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = authority(&path).unwrap_err().to_string();
        assert!(
            error.contains("mode 640") && error.contains("set its mode to 600"),
            "{error}"
        );
        std::fs::remove_dir_all(path.parent().unwrap().parent().unwrap()).unwrap();
    }
}
