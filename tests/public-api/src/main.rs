//! Lists the public items of a crate, one a line and sorted, from the JSON that rustdoc writes.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(json) = std::env::args_os().nth(1) else {
        eprintln!("usage: kms-public-api FILE.json");
        return ExitCode::from(2);
    };
    let built = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build();
    match built {
        Ok(api) => {
            for item in api.items() {
                println!("{item}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kms-public-api: {error}");
            ExitCode::FAILURE
        }
    }
}
