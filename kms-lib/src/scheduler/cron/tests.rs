//! Unit tests of cron expressions.

#![allow(clippy::unwrap_used)]

use jiff::ToSpan;
use jiff::civil::{Date, date};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

fn next(expression: &str, after: &str) -> String {
    Schedule::parse(expression).unwrap().next_after(after.parse().unwrap()).unwrap().to_string()
}

#[test]
fn means_what_cron_means() {
    // 2026-11-24 is a Tuesday.
    let now = "2026-11-24T10:17:00Z";
    for (expression, expected) in [
        ("0 * * * *", "2026-11-24T11:00:00.000000Z"),
        ("*/15 * * * *", "2026-11-24T10:30:00.000000Z"),
        ("0 0 * * 0", "2026-11-29T00:00:00.000000Z"),
        ("0 0 * * 7", "2026-11-29T00:00:00.000000Z"),
        ("0 0 * * SUN", "2026-11-29T00:00:00.000000Z"),
        ("0 0 * * 1", "2026-11-30T00:00:00.000000Z"),
        // Friday to Sunday.
        ("0 0 * * 5-7", "2026-11-27T00:00:00.000000Z"),
        // The 13th or a Friday, not only a Friday the 13th.
        ("0 0 13 * 5", "2026-11-27T00:00:00.000000Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00.000000Z"),
        // A Monday in February; the day of the month, February 30, never matches.
        ("0 0 30 2 1", "2027-02-01T00:00:00.000000Z"),
        ("17 10 24 11 *", "2027-11-24T10:17:00.000000Z"),
        ("@hourly", "2026-11-24T11:00:00.000000Z"),
        ("@daily", "2026-11-25T00:00:00.000000Z"),
        ("@weekly", "2026-11-29T00:00:00.000000Z"),
        ("@monthly", "2026-12-01T00:00:00.000000Z"),
        (" @Yearly ", "2027-01-01T00:00:00.000000Z"),
        ("@annually", "2027-01-01T00:00:00.000000Z"),
        ("5,10 8-18/2 1 jan,Jul Mon-FRI", "2027-01-01T08:05:00.000000Z"),
    ] {
        assert_eq!(next(expression, now), expected, "{expression}");
    }
    // The next match is later than the given time, even by a microsecond.
    assert_eq!(next("17 10 * * *", "2026-11-24T10:16:59.999999Z"), "2026-11-24T10:17:00.000000Z");
    assert_eq!(next("17 10 * * *", "2026-11-24T10:17:00.000001Z"), "2026-11-25T10:17:00.000000Z");
}

#[test]
fn refuses_what_cron_does_not_know() {
    for bad in [
        "",
        "* * * *",
        "0 * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 32 * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "a b c d e",
        // Dates that do not exist.
        "0 0 31 2 *",
        "0 0 30 2 *",
        "*/0 * * * *",
        "*/60 * * * *",
        "5/10 * * * *",
        "5-1 * * * *",
        "* * * * SAT-SUN",
        "1- * * * *",
        "1,,2 * * * *",
        "+1 * * * *",
        "-1 * * * *",
        "1-2-3 * * * *",
        "** * * * *",
        "99999999999999999999 * * * *",
        // Extensions of other cron implementations.
        "0 0 L * *",
        "0 0 15W * *",
        "0 0 * * 5L",
        "0 0 * * 5#2",
        "0 0 ? * 1",
        "@reboot",
        "@daily @daily",
        "0 0 @daily * *",
        // The crate alone would accept these.
        "0 0 1JAN MON *",
        "0 0 1 JANMON *",
    ] {
        let error = Schedule::parse(bad).expect_err(bad);
        assert_eq!(error.code(), ErrorCode::InvalidConfiguration, "{bad:?}: {error}");
    }
    assert!(Schedule::parse(&"*".repeat(10_000)).is_err());
    assert!(Schedule::parse("\u{ff10} * * * *").is_err());
}

#[test]
fn errors_name_the_field_and_what_it_may_be() {
    let message = |text: &str| Schedule::parse(text).unwrap_err().message().to_owned();
    assert!(message("* 24 * * *").ends_with("\"24\" is not a valid hour; 0 to 23 are allowed"));
    assert!(message("0 0 * * MOON").ends_with("\"MOON\" is not a valid day of the week; 0 to 7 are allowed"));
    assert!(message("*/90 * * * *").ends_with("\"90\" is not a valid step for the minute; 1 to 59 are allowed"));
    assert!(message("0 0 30 2 *").ends_with("never matches a date before 2101"));
}

#[test]
fn ends_with_the_year_2100() {
    let schedule = Schedule::parse("@yearly").unwrap();
    assert!(schedule.next_after("2099-06-01T00:00:00Z".parse().unwrap()).is_some());
    for late in ["2100-06-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"] {
        assert_eq!(schedule.next_after(late.parse().unwrap()), None);
    }
}

/// A field as text with the numbers that it matches, generated together so that the test needs no parser.
struct Random {
    text: String,
    numbers: Vec<u32>,
}

impl Random {
    fn field(random: &mut StdRng, field: &Field) -> Self {
        if random.random_bool(0.4) {
            return Self { text: "*".into(), numbers: (field.first..=field.last).collect() };
        }
        let elements: Vec<Self> = (0..random.random_range(1..=3)).map(|_| Self::element(random, field)).collect();
        let text = elements.iter().map(|element| &*element.text).collect::<Vec<_>>().join(",");
        Self { text, numbers: elements.into_iter().flat_map(|element| element.numbers).collect() }
    }

    fn element(random: &mut StdRng, field: &Field) -> Self {
        let step = random.random_range(1..=field.last);
        let (one, other) =
            (random.random_range(field.first..=field.last), random.random_range(field.first..=field.last));
        let (first, last) = (one.min(other), one.max(other));
        let every =
            |first: u32, last: u32, step: u32| (first..=last).filter(|n| (n - first).is_multiple_of(step)).collect();
        match random.random_range(0..5) {
            0 => Self { text: format!("*/{step}"), numbers: every(field.first, field.last, step) },
            1 => Self { text: format!("{first}-{last}"), numbers: every(first, last, 1) },
            2 => Self { text: format!("{first}-{last}/{step}"), numbers: every(first, last, step) },
            3 => match field.names.get((one - field.first) as usize) {
                Some(name) => Self { text: (*name).into(), numbers: vec![one] },
                None => Self { text: one.to_string(), numbers: vec![one] },
            },
            _ => Self { text: one.to_string(), numbers: vec![one] },
        }
    }
}

/// Whether the expression matches this day by the rules of POSIX.
fn runs_on(day: Date, [days, months, weekdays]: [&Random; 3]) -> bool {
    let weekday: u32 = day.weekday().to_sunday_zero_offset().cast_unsigned().into();
    let by_day = days.numbers.contains(&day.day().cast_unsigned().into());
    let by_weekday = weekdays.numbers.iter().any(|number| number % 7 == weekday);
    let by_month = months.numbers.contains(&day.month().cast_unsigned().into());
    by_month
        && match (&*days.text, &*weekdays.text) {
            ("*", "*") => true,
            ("*", _) => by_weekday,
            (_, "*") => by_day,
            _ => by_day || by_weekday,
        }
}

#[test]
fn agrees_with_a_search_of_every_minute() {
    let mut random = StdRng::seed_from_u64(17);
    let first_day = date(2026, 12, 30);
    let mut refused = 0;
    for _ in 0..2_000 {
        let [minute, hour, day, month, weekday] =
            [MINUTE, HOUR, DAY, MONTH, WEEKDAY].map(|field| Random::field(&mut random, &field));
        let text = [&minute, &hour, &day, &month, &weekday].map(|field| &*field.text).join(" ");
        let four_years = first_day.series(1.day()).take(4 * 366);
        let open = four_years.filter(|date| runs_on(*date, [&day, &month, &weekday]));
        let times = open.flat_map(|date| {
            let all = (0..24 * 60).filter(|m| hour.numbers.contains(&(m / 60)) && minute.numbers.contains(&(m % 60)));
            all.map(move |minutes| format!("{date}T{:02}:{:02}:00.000000Z", minutes / 60, minutes % 60))
        });
        let expected: Vec<String> = times.take(40).collect();
        let Ok(schedule) = Schedule::parse(&text) else {
            assert!(expected.is_empty(), "{text} was refused");
            refused += 1;
            continue;
        };
        let mut time: Timestamp = format!("{first_day}T00:00:00Z").parse().unwrap();
        time = Timestamp::from_micros(time.micros() - 1);
        for expected in expected {
            time = schedule.next_after(time).unwrap();
            assert_eq!(time.to_string(), expected, "{text}");
        }
    }
    assert!(refused < 100, "{refused} expressions never come");
}
