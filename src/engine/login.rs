//! What this user told the Docker command line of registries: `docker login` leaves it in `config.json`, or in the keeping
//! of a helper program. An engine pulls with what its client sends along; it keeps no login of its own.

use super::{DockerCredentials, Where};
use docker_credential::{CredentialRetrievalError as Want, DockerCredential, get_credential_from_reader};
use std::io;

/// What the default registry is called there, since its first version.
const DEFAULT: &str = "https://index.docker.io/v1/";

/// The login for a registry (`host[:port]`; none is the default one), where there is one. Starts a helper where the
/// configuration names one.
///
/// # Errors
/// Why a login that is there can't be had.
pub fn login(places: &Where, registry: Option<&str>) -> Result<Option<DockerCredentials>, String> {
    let Some(path) = places.config.as_ref().map(|folder| folder.join("config.json")) else { return Ok(None) };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let server = match registry {
        None | Some("docker.io" | "index.docker.io") => DEFAULT,
        Some(registry) => registry,
    };
    let base = DockerCredentials { serveraddress: Some(server.to_owned()), ..Default::default() };
    match get_credential_from_reader(io::BufReader::new(file), server) {
        Ok(DockerCredential::IdentityToken(token)) => {
            Ok(Some(DockerCredentials { identitytoken: Some(token), ..base }))
        }
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(DockerCredentials { username: Some(username), password: Some(password), ..base }))
        }
        Err(Want::NoCredentialConfigured) => Ok(None),
        // A store of all logins says so of one that it does not have: docker-credential-helpers, credentials/error.go.
        Err(Want::HelperFailure { stdout, stderr, .. })
            if format!("{stdout}{stderr}").contains("credentials not found") =>
        {
            Ok(None)
        }
        Err(Want::HelperFailure { helper, stdout, stderr }) => {
            // Its errors come on either stream; what may be a login stays out of every log.
            let words =
                [stderr, stdout].into_iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
            let said = words.map(|line| line.trim().to_owned()).find(|line| !line.is_empty() && !line.contains('{'));
            Err(format!("{helper}: {}", said.unwrap_or_else(|| "it failed without a word".to_owned())))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(config: &str) -> (tempfile::TempDir, Where) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let places = Where { config: Some(dir.path().to_owned()), ..Where::default() };
        (dir, places)
    }

    #[test]
    fn each_registry_has_its_own_login_and_most_have_none() {
        // `user:secret` and `me:it`.
        let (_dir, places) = with(
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpzZWNyZXQ="}, "localhost:5000": {"auth": "bWU6aXQ="},
                "token.example": {"auth": "eDo=", "identitytoken": "abc"}}}"#,
        );
        let name = |registry| login(&places, registry).unwrap().and_then(|found| found.username);
        assert_eq!(name(None).as_deref(), Some("user"));
        assert_eq!(name(Some("docker.io")).as_deref(), Some("user"));
        assert_eq!(name(Some("localhost:5000")).as_deref(), Some("me"));
        assert_eq!(name(Some("localhost:5001")), None);
        let token = login(&places, Some("token.example")).unwrap().unwrap();
        assert_eq!((token.username, token.identitytoken.as_deref()), (None, Some("abc")));
    }

    #[test]
    fn no_configuration_is_no_login_and_a_broken_one_says_where() {
        assert!(login(&Where::default(), None).unwrap().is_none());
        let places = Where { config: Some("/nobody/here".into()), ..Where::default() };
        assert!(login(&places, None).unwrap().is_none());
        let (dir, places) = with(r#"{"auths": {"x.example": {"auth": "no base64!"}}}"#);
        let why = login(&places, Some("x.example")).unwrap_err();
        assert!(why.starts_with(&dir.path().join("config.json").display().to_string()), "{why}");
        let (_dir, places) = with(r#"{"credHelpers": {"x.example": "ft-is-not-there"}}"#);
        assert!(login(&places, Some("x.example")).is_err());
    }
}
