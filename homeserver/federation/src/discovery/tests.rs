use super::*;

/// What a made-up internet says.
#[derive(Default)]
struct Internet {
    well_known: Option<&'static str>,
    services: Vec<(&'static str, &'static str, u16)>,
    addresses: Vec<(&'static str, &'static str)>,
}

/// The whole search. Answers what was asked, and where the server is: `Host` header, certificate's name, addresses.
/// `Host` header, certificate, addresses.
type Found = (String, String, Vec<String>);

fn search(server: &str, internet: &Internet) -> (Vec<Question>, Option<Found>) {
    let mut discovery = Discovery::of(<&ServerName>::try_from(server).unwrap()).unwrap();
    let mut asked = Vec::new();
    loop {
        let question = match discovery.next() {
            Next::Ask(question) => question,
            Next::NotFound(_) => return (asked, None),
            Next::Found(target) => {
                let addresses = target.addresses.iter().map(ToString::to_string).collect();
                let authority = target.authority;
                return (asked, Some((authority.to_string(), authority.host.to_string(), addresses)));
            }
        };
        let answer = match &question {
            Question::WellKnown(_) => Answer::WellKnown(internet.well_known.and_then(Authority::parse)),
            Question::Services(name) => Answer::Services(
                internet
                    .services
                    .iter()
                    .filter(|(of, ..)| of == name)
                    .map(|&(_, target, port)| Service {
                        priority: 10,
                        weight: 0,
                        port,
                        target: target.into(),
                    })
                    .collect(),
            ),
            Question::Addresses(name) => Answer::Addresses(
                internet
                    .addresses
                    .iter()
                    .filter(|(of, _)| of == name)
                    .map(|(_, address)| address.parse().unwrap())
                    .collect(),
            ),
        };
        asked.push(question);
        assert!(asked.len() < 20, "the search ends");
        discovery.answer(answer, &mut |_| 0);
    }
}

fn well_known(host: &str) -> Question {
    Question::WellKnown(host.to_owned())
}
fn services(name: &str) -> Question {
    Question::Services(name.to_owned())
}
fn addresses(name: &str) -> Question {
    Question::Addresses(name.to_owned())
}

/// The numbers are those of the steps in the specification.
#[test]
fn step_1_literal_addresses_are_asked_for_nothing() {
    let nothing = Internet::default();
    for (server, address) in [
        ("1.2.3.4", "1.2.3.4:8448"),
        ("1.2.3.4:5678", "1.2.3.4:5678"),
        ("[2001:db8::1]", "[2001:db8::1]:8448"),
        ("[2001:db8::1]:5678", "[2001:db8::1]:5678"),
    ] {
        let (asked, found) = search(server, &nothing);
        let (host_header, certificate, addresses) = found.unwrap();
        assert_eq!(asked, []);
        assert_eq!(host_header, server, "with the port if the name has one");
        assert_eq!(certificate, server.trim_end_matches(":5678"));
        assert_eq!(addresses, [address]);
    }
}

#[test]
fn step_2_an_explicit_port_skips_well_known_and_srv() {
    let internet = Internet {
        well_known: Some("elsewhere.example"),
        services: vec![("_matrix-fed._tcp.a.example", "srv.example", 1)],
        addresses: vec![("a.example", "9.9.9.9"), ("a.example", "2620:fe::9")],
    };
    let (asked, found) = search("a.example:80", &internet);
    assert_eq!(asked, [addresses("a.example")]);
    let both = vec!["[2620:fe::9]:80".to_owned(), "9.9.9.9:80".to_owned()];
    assert_eq!(found, Some(("a.example:80".into(), "a.example".into(), both)));
}

#[test]
fn step_3_1_delegation_to_a_literal_address() {
    for (delegated, address) in [("9.9.9.9", "9.9.9.9:8448"), ("[2620:fe::9]:443", "[2620:fe::9]:443")] {
        let internet = Internet { well_known: Some(delegated), ..Internet::default() };
        let (asked, found) = search("a.example", &internet);
        assert_eq!(asked, [well_known("a.example")]);
        let (host_header, certificate, addresses) = found.unwrap();
        assert_eq!(host_header, delegated);
        assert_eq!(certificate, delegated.trim_end_matches(":443"));
        assert_eq!(addresses, [address]);
    }
}

#[test]
fn step_3_2_delegation_with_a_port() {
    let internet = Internet {
        well_known: Some("b.example:443"),
        services: vec![("_matrix-fed._tcp.b.example", "srv.example", 1)],
        addresses: vec![("b.example", "9.9.9.9")],
    };
    let (asked, found) = search("a.example", &internet);
    assert_eq!(asked, [well_known("a.example"), addresses("b.example")]);
    assert_eq!(found, Some(("b.example:443".into(), "b.example".into(), vec!["9.9.9.9:443".into()])));
}

#[test]
fn step_3_3_delegation_and_srv() {
    let internet = Internet {
        well_known: Some("b.example"),
        services: vec![
            ("_matrix-fed._tcp.b.example", "srv.example.", 1234),
            ("_matrix._tcp.b.example", "old.example", 1),
        ],
        addresses: vec![("srv.example", "9.9.9.9")],
    };
    let (asked, found) = search("a.example", &internet);
    assert_eq!(
        asked,
        [well_known("a.example"), services("_matrix-fed._tcp.b.example"), addresses("srv.example")]
    );
    assert_eq!(found, Some(("b.example".into(), "b.example".into(), vec!["9.9.9.9:1234".into()])));
}

#[test]
fn step_3_4_delegation_and_the_deprecated_srv() {
    let internet = Internet {
        well_known: Some("b.example"),
        services: vec![("_matrix._tcp.b.example", "srv.example", 1234)],
        addresses: vec![("srv.example", "9.9.9.9")],
    };
    let (asked, found) = search("a.example", &internet);
    assert_eq!(asked.get(2), Some(&services("_matrix._tcp.b.example")));
    assert_eq!(found, Some(("b.example".into(), "b.example".into(), vec!["9.9.9.9:1234".into()])));
}

#[test]
fn step_3_5_delegation_without_srv() {
    let internet = Internet {
        well_known: Some("b.example"),
        addresses: vec![("b.example", "9.9.9.9")],
        ..Internet::default()
    };
    let (asked, found) = search("a.example", &internet);
    assert_eq!(asked.last(), Some(&addresses("b.example")));
    assert_eq!(found, Some(("b.example".into(), "b.example".into(), vec!["9.9.9.9:8448".into()])));
}

#[test]
fn step_4_srv_of_the_name_itself() {
    let internet = Internet {
        well_known: None,
        services: vec![("_matrix-fed._tcp.a.example", "srv.example", 1234)],
        addresses: vec![("srv.example", "2620:fe::9")],
    };
    let (asked, found) = search("a.example", &internet);
    assert_eq!(
        asked,
        [well_known("a.example"), services("_matrix-fed._tcp.a.example"), addresses("srv.example")]
    );
    let only = vec!["[2620:fe::9]:1234".to_owned()];
    assert_eq!(found, Some(("a.example".into(), "a.example".into(), only)), "IPv6 alone is enough");
}

#[test]
fn step_5_the_deprecated_srv_of_the_name_itself() {
    let internet = Internet {
        services: vec![("_matrix._tcp.a.example", "srv.example", 1234)],
        addresses: vec![("srv.example", "9.9.9.9")],
        ..Internet::default()
    };
    let (_, found) = search("a.example", &internet);
    assert_eq!(found, Some(("a.example".into(), "a.example".into(), vec!["9.9.9.9:1234".into()])));
}

#[test]
fn step_6_the_default_port() {
    let internet = Internet { addresses: vec![("a.example", "9.9.9.9")], ..Internet::default() };
    let (asked, found) = search("A.example", &internet);
    assert_eq!(
        asked,
        [
            well_known("a.example"),
            services("_matrix-fed._tcp.a.example"),
            services("_matrix._tcp.a.example"),
            addresses("a.example")
        ]
    );
    assert_eq!(found, Some(("a.example".into(), "a.example".into(), vec!["9.9.9.9:8448".into()])));
}

#[test]
fn a_well_known_that_makes_no_sense_counts_as_none() {
    for nonsense in ["", "https://b.example", "b.example:http", "b.example/x"] {
        let internet = Internet {
            well_known: Some(nonsense),
            addresses: vec![("a.example", "9.9.9.9")],
            ..Internet::default()
        };
        let (_, found) = search("a.example", &internet);
        assert_eq!(found.unwrap().0, "a.example", "{nonsense}");
    }
}

/// Delegation leads one step, never in a circle: the delegated name is not asked for its own well-known.
#[test]
fn delegation_is_not_followed_twice() {
    let internet = Internet {
        well_known: Some("a.example"),
        addresses: vec![("a.example", "9.9.9.9")],
        ..Internet::default()
    };
    let (asked, _) = search("a.example", &internet);
    assert_eq!(asked.iter().filter(|question| matches!(question, Question::WellKnown(_))).count(), 1);
}

#[test]
fn a_name_without_addresses_is_nowhere() {
    assert_eq!(search("a.example", &Internet::default()).1, None);
    assert_eq!(search("a.example:80", &Internet::default()).1, None);
    let refused = Internet { services: vec![("_matrix-fed._tcp.a.example", ".", 0)], ..Internet::default() };
    assert_eq!(search("a.example", &refused).1, None, "RFC 2782: a dot says that there is no such service");
}

#[test]
fn targets_are_tried_by_priority_and_weight() {
    let service =
        |priority, weight, target: &str| Service { priority, weight, port: 1, target: target.into() };
    let services = vec![service(20, 0, "last"), service(10, 1, "light"), service(10, 99, "heavy")];
    let order = |mut roll: Box<dyn FnMut(u64) -> u64>| {
        let ordered = in_order(services.clone(), &mut *roll);
        ordered.into_iter().map(|(target, _)| target).collect::<Vec<_>>()
    };
    assert_eq!(order(Box::new(|_| 0)), ["light", "heavy", "last"]);
    assert_eq!(order(Box::new(|end| end - 1)), ["heavy", "light", "last"]);
    let mut first = 0;
    for number in 0..=100 {
        first += usize::from(order(Box::new(move |end| number % end))[0] == "heavy");
    }
    assert!((98..=100).contains(&first), "in proportion to the weights: {first}");
}

#[test]
fn a_flood_of_records_is_cut_off() {
    let many =
        (0..500).map(|number| Service { priority: number, weight: 0, port: 1, target: format!("t{number}") });
    assert_eq!(in_order(many.collect(), &mut |_| 0).len(), MOST_TARGETS);
    let mut discovery = Discovery::at(Authority::parse("a.example:1").unwrap());
    let addresses = (0..500_u32).map(|number| IpAddr::from(number.to_be_bytes())).collect();
    discovery.answer(Answer::Addresses(addresses), &mut |_| 0);
    let Next::Found(target) = discovery.next() else { panic!("found") };
    assert_eq!(target.addresses.len(), MOST_ADDRESSES);
}
