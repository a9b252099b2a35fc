use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION},
};
use url::Url;

use crate::{
    AddressRefused, ClientError, ClientSettings, GuardedResolver, Lookup, UrlPolicy, UrlRefused, client,
    public_tls,
};

/// What a request may take.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// The most redirects that are followed.
    pub redirects: usize,
    /// How long it may take, redirects and body included.
    pub timeout: Duration,
}

/// Asks URLs that somebody else chose, and follows their redirects, each checked like the first.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    policy: Arc<UrlPolicy>,
    limits: FetchLimits,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The URL that answered, behind all redirects.
    pub url: Url,
    /// The `Content-Type`, as the server said it.
    pub content_type: Option<String>,
    /// The body, or its beginning.
    pub body: Bytes,
    /// Whether the body went on.
    pub is_cut_short: bool,
}

/// Why nothing came back. The texts can be told to who asked: they name neither addresses nor what was answered.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL, or one that it redirects to, may not be asked.
    #[error(transparent)]
    Refused(#[from] UrlRefused),
    /// Too many redirects.
    #[error("there are too many redirects")]
    TooManyRedirects,
    /// A redirect to something that is no URL.
    #[error("a redirect leads nowhere")]
    BadRedirect,
    /// Another status than success.
    #[error("the other server answered {0}")]
    Status(u16),
    /// It took too long.
    #[error("the other server took too long")]
    TimedOut,
    /// It could not be reached, or the answer broke off.
    #[error("the other server cannot be reached, or its answer broke off")]
    Failed(#[source] reqwest::Error),
}

impl Fetcher {
    /// Asks by these rules.
    pub fn new(
        settings: &ClientSettings,
        policy: UrlPolicy,
        lookup: Arc<dyn Lookup>,
        limits: FetchLimits,
    ) -> Result<Self, ClientError> {
        let resolver = GuardedResolver::new(policy.addresses().clone(), lookup);
        let client = client(settings, resolver, public_tls(&[])?)?;
        Ok(Self { client, policy: Arc::new(policy), limits })
    }

    /// Whether the URL may be asked, as far as it can be told without resolving names.
    pub fn check(&self, url: &Url) -> Result<(), UrlRefused> {
        self.policy.check(url)
    }

    /// `GET`, up to `most_bytes` of the body.
    pub async fn get(&self, url: &Url, accept: &str, most_bytes: usize) -> Result<Fetched, FetchError> {
        let fetched = tokio::time::timeout(self.limits.timeout, self.follow(url.clone(), accept, most_bytes));
        fetched.await.map_err(|_| FetchError::TimedOut)?
    }

    async fn follow(&self, mut url: Url, accept: &str, most_bytes: usize) -> Result<Fetched, FetchError> {
        url.set_fragment(None);
        let mut redirects = 0;
        loop {
            self.policy.check(&url)?;
            let request = self.client.get(url.clone()).header(ACCEPT, accept);
            let response = request.send().await.map_err(failure)?;
            match response.status() {
                status if is_redirect(status) => url = redirect_target(&url, response.headers())?,
                StatusCode::OK => return read(response, url, most_bytes).await,
                status => return Err(FetchError::Status(status.as_u16())),
            }
            redirects += 1;
            if redirects > self.limits.redirects {
                return Err(FetchError::TooManyRedirects);
            }
        }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn redirect_target(url: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let mut target = location.and_then(|text| url.join(text).ok()).ok_or(FetchError::BadRedirect)?;
    target.set_fragment(None);
    Ok(target)
}

async fn read(mut response: Response, url: Url, most_bytes: usize) -> Result<Fetched, FetchError> {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.map(str::to_owned);
    let mut body = Vec::new();
    let mut is_cut_short = false;
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        let room = most_bytes.saturating_sub(body.len());
        let taken = chunk.get(..room).unwrap_or(&chunk);
        body.extend_from_slice(taken);
        if taken.len() < chunk.len() {
            is_cut_short = true;
            break;
        }
    }
    Ok(Fetched { url, content_type, body: body.into(), is_cut_short })
}

/// A name whose addresses are denied fails like a URL with such an address.
fn failure(error: reqwest::Error) -> FetchError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        // What an `io::Error` wraps is not among its sources.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let is_refusal =
            cause.is::<AddressRefused>() || matches!(wrapped, Some(inner) if inner.is::<AddressRefused>());
        if is_refusal {
            return FetchError::Refused(UrlRefused::Address);
        }
        source = cause.source();
    }
    if error.is_timeout() { FetchError::TimedOut } else { FetchError::Failed(error) }
}
