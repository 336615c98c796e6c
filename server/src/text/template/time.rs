//! `strftime_now`: the caller's clock as a template prints it, in UTC.

use std::fmt::Write as _;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

struct CivilTime {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// Monday is 0.
    weekday: i64,
    /// From 1.
    day_of_year: i64,
}

/// Formats `unix_seconds` by C's directives; unknown ones stay as they are.
pub(crate) fn strftime(unix_seconds: i64, format: &str) -> String {
    let time = CivilTime::from_unix(unix_seconds);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            None => out.push('%'),
            Some('-') => match characters.next() {
                Some(directive) => {
                    let mut padded = String::new();
                    time.write(directive, &mut padded);
                    let bare = padded.trim_start_matches(['0', ' ']);
                    out.push_str(if bare.is_empty() { "0" } else { bare });
                }
                None => out.push_str("%-"),
            },
            Some(directive) => time.write(directive, &mut out),
        }
    }
    out
}

impl CivilTime {
    /// The Gregorian date of a day count, by eras of 400 years that begin in March.
    fn from_unix(unix_seconds: i64) -> Self {
        let days = unix_seconds.div_euclid(86_400);
        let seconds = unix_seconds.rem_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let days_to_march = 59 + i64::from(is_leap);
        let day_of_year =
            if month <= 2 { day_from_march - 306 } else { day_from_march + days_to_march } + 1;
        Self {
            year,
            month,
            day: day_from_march - (153 * month_from_march + 2) / 5 + 1,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            weekday: (days + 3).rem_euclid(7),
            day_of_year,
        }
    }

    fn write(&self, directive: char, out: &mut String) {
        let month = MONTHS[(self.month - 1) as usize];
        let weekday = WEEKDAYS[self.weekday as usize];
        let half_day_hour = (self.hour + 11) % 12 + 1;
        let written = match directive {
            'Y' => write!(out, "{:04}", self.year),
            'y' => write!(out, "{:02}", self.year.rem_euclid(100)),
            'm' => write!(out, "{:02}", self.month),
            'B' => write!(out, "{month}"),
            'b' | 'h' => write!(out, "{}", &month[..3]),
            'd' => write!(out, "{:02}", self.day),
            'e' => write!(out, "{:2}", self.day),
            'j' => write!(out, "{:03}", self.day_of_year),
            'A' => write!(out, "{weekday}"),
            'a' => write!(out, "{}", &weekday[..3]),
            'w' => write!(out, "{}", (self.weekday + 1) % 7),
            'u' => write!(out, "{}", self.weekday + 1),
            'H' => write!(out, "{:02}", self.hour),
            'I' => write!(out, "{half_day_hour:02}"),
            'M' => write!(out, "{:02}", self.minute),
            'S' => write!(out, "{:02}", self.second),
            'p' => write!(out, "{}", if self.hour < 12 { "AM" } else { "PM" }),
            'F' => write!(out, "{:04}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => write!(out, "{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'Z' => write!(out, "UTC"),
            'z' => write!(out, "+0000"),
            '%' => write!(out, "%"),
            other => write!(out, "%{other}"),
        };
        written.expect("a String takes all that is written");
    }
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_gregorian() {
        let cases = [
            (0, "%Y-%m-%d %A %j", "1970-01-01 Thursday 001"),
            (951_782_400, "%d %b %Y %j", "29 Feb 2000 060"),
            (1_735_689_599, "%F %T %a %j", "2024-12-31 23:59:59 Tue 366"),
            (1_767_225_600, "%B %-d, %Y %I %p %y", "January 1, 2026 12 AM 26"),
            (-1, "%F %H:%M:%S", "1969-12-31 23:59:59"),
            (0, "100%% %q %", "100% %q %"),
        ];
        for (seconds, format, expected) in cases {
            assert_eq!(strftime(seconds, format), expected, "{seconds} {format}");
        }
    }
}
