//! Takes the files of Swagger UI that the page `/docs` loads from the archive, still compressed, so that they take a
//! quarter of the space in the program.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::{CompressionMethod, ZipArchive};

/// The names in the folder `dist` of the archive.
const FILES: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR")?;
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for name in FILES {
        fs::write(Path::new(&out).join(format!("{name}.deflate")), deflated(&mut archive, name)?)?;
    }
    Ok(())
}

/// The compressed bytes of a file.
fn deflated(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let ending = format!("/dist/{name}");
    let path = archive.file_names().flatten().find(|path| path.ends_with(&ending)).map(|path| path.into_owned());
    let index = path.and_then(|path| archive.index_for_name(&path)).ok_or(format!("{name} is not in the archive"))?;
    let mut file = archive.by_index_raw(index)?;
    if file.compression() != CompressionMethod::Deflated {
        return Err(format!("{name} is not compressed with deflate").into());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
