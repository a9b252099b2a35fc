use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::Value;

/// Somebody who sends requests to a server.
#[derive(Clone)]
pub struct Caller {
    http: Client,
    base_url: String,
    /// The access token, if there is one.
    pub access_token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as JSON if it is, otherwise as a string.
    pub body: Value,
}

impl Caller {
    /// A caller with connections of its own.
    pub fn new(base_url: &str, access_token: Option<&str>) -> Self {
        let http = Client::builder().no_proxy().build().unwrap();
        Self { http, base_url: base_url.to_owned(), access_token: access_token.map(str::to_owned) }
    }

    /// A request that is yet to be sent.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base_url));
        match &self.access_token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::GET, path)).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request(Method::POST, path).json(body)).await
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request(Method::PUT, path).json(body)).await
    }

    /// `DELETE` with a JSON body.
    pub async fn delete(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request(Method::DELETE, path).json(body)).await
    }

    /// Does what needs the user's own password, by user-interactive authentication.
    pub async fn prove_and(
        &self,
        method: Method,
        path: &str,
        body: Value,
        user: &str,
        password: &str,
    ) -> Answer {
        let first = Answer::to(self.request(method.clone(), path).json(&body)).await;
        assert_eq!(first.status, StatusCode::UNAUTHORIZED, "proof is asked for: {first:?}");
        let mut body = body;
        body["auth"] = serde_json::json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": password,
            "session": first.body["session"],
        });
        Answer::to(self.request(method, path).json(&body)).await
    }
}

impl Answer {
    /// The answer to a request.
    pub async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self { status, headers, body }
    }

    /// The body of an answer that must be a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    /// The body of an answer that must be this refusal, with a message for people.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        let Self { status: found, body, .. } = self;
        assert_eq!((found.as_u16(), body["errcode"].as_str()), (status, Some(errcode)), "{body}");
        assert!(body["error"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        body
    }

    /// The value of a header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}
