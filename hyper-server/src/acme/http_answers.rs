//! What is answered over plain HTTP: challenges, and where the registry is.

use super::handle::Acme;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Where challenges are asked for (RFC 8555, section 8.3).
const PATH: &str = "/.well-known/acme-challenge/";

/// Answers the challenge http-01, and sends all other requests to `https://`. It is a service for [`serve`](crate::serve), made by
/// [`Tls::http_answers`](crate::Tls::http_answers).
#[derive(Clone, Debug)]
pub struct HttpAnswers {
    acme: Acme,
    /// The URL of the registry, without a path.
    root: Option<String>,
}

impl HttpAnswers {
    pub(crate) fn new(acme: Acme, root: Option<String>) -> Self {
        Self { acme, root }
    }

    async fn respond<B>(self, request: Request<B>) -> Response<Full<Bytes>> {
        if let Some(token) = request.uri().path().strip_prefix(PATH) {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return plain(StatusCode::METHOD_NOT_ALLOWED, "a challenge is read with GET\n".into());
            }
            return match self.acme.http_answer(token).await {
                Ok(Some(answer)) => plain(StatusCode::OK, answer),
                Ok(None) => plain(StatusCode::NOT_FOUND, "no challenge of this token is awaited\n".into()),
                Err(_) => {
                    let text = "the answer cannot be read: try again later\n";
                    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text.into());
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
                    response
                }
            };
        }
        let place = self.place(&request).and_then(|place| HeaderValue::try_from(place).ok());
        let Some(place) = place else {
            return plain(StatusCode::NOT_FOUND, "this server answers challenges of ACME\n".into());
        };
        let mut response = plain(StatusCode::PERMANENT_REDIRECT, "the registry speaks TLS\n".into());
        response.headers_mut().insert(header::LOCATION, place);
        response
    }

    /// Where the registry answers the request. A host that is none of the domains is not sent anywhere.
    fn place<B>(&self, request: &Request<B>) -> Option<String> {
        let named = request.uri().host().or_else(|| {
            let host = request.headers().get(header::HOST)?.to_str().ok()?;
            Some(host.rsplit_once(':').map_or(host, |(host, _)| host))
        });
        let host = named?.to_ascii_lowercase();
        if !self.acme.domains().contains(&host) {
            return None;
        }
        let root = self.root.as_deref().filter(|root| root.starts_with("https://"));
        let root =
            root.map_or_else(|| format!("https://{host}"), |root| root.trim_end_matches('/').to_owned());
        let path = request.uri().path_and_query().map(|path| path.as_str());
        Some(format!("{root}{}", path.filter(|path| path.starts_with('/')).unwrap_or("/")))
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

impl<B: Send + 'static> tower::Service<Request<B>> for HttpAnswers {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answers = self.clone();
        Box::pin(async move { Ok(answers.respond(request).await) })
    }
}

#[cfg(test)]
#[cfg(feature = "acme")]
mod tests {
    use super::*;
    use crate::acme::AcmeOptions;
    use http_body_util::BodyExt as _;

    async fn ask(answers: &HttpAnswers, method: &str, host: &str, path: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path).header("host", host).body(()).unwrap();
        let (head, body) = answers.clone().respond(request).await.into_parts();
        let place = head.headers.get("location").map_or("", |place| place.to_str().unwrap()).to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), place, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn challenges_are_answered_and_the_rest_is_sent_to_the_registry() {
        let dir = tempfile::tempdir().unwrap();
        let options =
            AcmeOptions { accepts_terms: true, ..AcmeOptions::new(["r.example"], dir.path().join("acme")) };
        let acme = Acme::open(options).unwrap();
        let token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ";
        acme.folder().write(&format!("challenge-http-{token}"), "the answer").unwrap();
        acme.folder().write("account-1.json", "a secret").unwrap();
        let answers = HttpAnswers::new(acme.clone(), None);
        let at = |path: &str| format!("{PATH}{path}");
        // A directory may ask by any name that leads here.
        let answer = ask(&answers, "GET", "r.example", &at(token)).await;
        assert_eq!(answer, (200, String::new(), "the answer".to_owned()));
        assert_eq!(ask(&answers, "POST", "r.example", &at(token)).await.0, 405);
        for wrong in ["", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGK", "../account-1.json", "%2e%2e/account-1.json"] {
            assert_eq!(ask(&answers, "GET", "r.example", &at(wrong)).await.0, 404, "{wrong}");
        }
        for (host, path, place) in [
            ("r.example", "/v2/?n=1", "https://r.example/v2/?n=1"),
            ("R.example:80", "//x", "https://r.example//x"),
            ("evil.example", "/v2/", ""),
            ("r.example.evil.example", "/", ""),
            ("", "/", ""),
        ] {
            let (status, to, _) = ask(&answers, "GET", host, path).await;
            assert_eq!((status, to.as_str()), (if place.is_empty() { 404 } else { 308 }, place), "{host}");
        }
        let public = HttpAnswers::new(acme, Some("https://r.example:8443/".to_owned()));
        assert_eq!(ask(&public, "PUT", "r.example", "/v2/").await.1, "https://r.example:8443/v2/");
    }
}
