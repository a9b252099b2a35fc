//! From a request's body to a message.
//!
//! The template is the operator's; the body is a stranger's: it is only ever data, and how long rendering takes is bounded.

use minijinja::{
    AutoEscape, Environment, UndefinedBehavior, context,
    value::{Serde, Value},
};

/// How many steps rendering may take.
const FUEL: u64 = 100_000;
/// The longest message, in bytes.
const MOST_BYTES: usize = 16 * 1024;

/// What is wrong with a template.
#[derive(Debug, thiserror::Error)]
#[error("the template {0}")]
pub struct TemplateError(String);

/// A template for the text, and perhaps one for HTML.
#[derive(Debug)]
pub(super) struct Templates {
    environment: Environment<'static>,
    has_html: bool,
}

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) text: String,
    pub(super) html: Option<String>,
}

impl Templates {
    pub(super) fn new(text: String, html: Option<String>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_auto_escape_callback(|name| {
            if name == "html" { AutoEscape::Html } else { AutoEscape::None }
        });
        let bad = |error: minijinja::Error| TemplateError(format!("cannot be understood: {error}"));
        environment.add_template_owned("text", text).map_err(bad)?;
        let has_html = html.is_some();
        if let Some(html) = html {
            environment.add_template_owned("html", html).map_err(bad)?;
        }
        Ok(Self { environment, has_html })
    }

    pub(super) fn render(&self, body: &serde_json::Value) -> Result<Rendered, TemplateError> {
        let text = self.one("text", body)?;
        let html = if self.has_html { Some(self.one("html", body)?) } else { None };
        Ok(Rendered { text, html })
    }

    fn one(&self, name: &str, body: &serde_json::Value) -> Result<String, TemplateError> {
        let failed = |error: minijinja::Error| TemplateError(format!("cannot be filled: {error}"));
        let template = self.environment.get_template(name).map_err(failed)?;
        let rendered = template.render(context! { body => Value::from(Serde(body)) }).map_err(failed)?;
        if rendered.len() > MOST_BYTES {
            return Err(TemplateError(format!("makes more than {MOST_BYTES} bytes of it")));
        }
        Ok(rendered)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_inserted_and_escaped_in_html() {
        let html = Some("<b>{{ body.name }}</b>".to_owned());
        let templates =
            Templates::new("{{ body.name }}: {{ body.steps | length }}".to_owned(), html).unwrap();
        let rendered = templates.render(&json!({ "name": "<i>", "steps": [1, 2] })).unwrap();
        let expected = Rendered { text: "<i>: 2".to_owned(), html: Some("<b>&lt;i&gt;</b>".to_owned()) };
        assert_eq!(rendered, expected);
    }

    #[test]
    fn what_is_missing_is_empty() {
        let templates = Templates::new("[{{ body.a.b }}]".to_owned(), None).unwrap();
        assert_eq!(templates.render(&json!({})).unwrap().text, "[]");
    }

    #[test]
    fn a_body_is_not_a_template_and_work_is_bounded() {
        let templates = Templates::new("{{ body }}".to_owned(), None).unwrap();
        assert_eq!(templates.render(&json!("{{ 7 * 7 }}")).unwrap().text, "{{ 7 * 7 }}");
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{{ body }}{% endfor %}{% endfor %}";
        assert!(Templates::new(endless.to_owned(), None).unwrap().render(&json!(1)).is_err());
        assert!(templates.render(&json!("x".repeat(MOST_BYTES + 1))).is_err());
        assert!(Templates::new("{{ body".to_owned(), None).is_err());
    }
}
