use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, LOCATION},
};
use url::Url;

use crate::{
    Answer, Client, ClientError, ClientSettings, GuardedResolver, Lookup, Request, RequestError, UrlPolicy,
    UrlRefused, public_tls,
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
    /// It could not be reached, or the answer broke off: why, for the log.
    #[error("the other server cannot be reached, or its answer broke off")]
    Failed(String),
}

impl From<RequestError> for FetchError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(_) => Self::Refused(UrlRefused::Address),
            RequestError::TimedOut => Self::TimedOut,
            RequestError::Failed(reason) => Self::Failed(reason),
        }
    }
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
        let client = Client::new(settings, resolver, public_tls(&[])?)?;
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
        let accept = HeaderValue::try_from(accept).map_err(|error| FetchError::Failed(error.to_string()))?;
        let mut redirects = 0;
        loop {
            self.policy.check(&url)?;
            let mut request = Request::new(Method::GET, url.clone(), most_bytes);
            request.headers.insert(ACCEPT, accept.clone());
            let answer = self.client.ask(request).await?;
            match answer.status {
                status if is_redirect(status) => url = redirect_target(&url, &answer.headers)?,
                StatusCode::OK => return Ok(fetched(answer, url)),
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

fn fetched(answer: Answer, url: Url) -> Fetched {
    let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.map(str::to_owned);
    Fetched { url, content_type, body: answer.body, is_cut_short: answer.is_cut_short }
}
