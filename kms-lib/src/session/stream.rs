//! Encrypting and decrypting streams of any size in constant memory. Each has one record: that of its data key.

use std::io::{Read, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{KeyRef, Session};
use crate::crypto::stream::{CHUNK, DATA_KEY, Decryptor, Encryptor, Header};
use crate::types::audit::Receipt;
use crate::types::context::Context;
use crate::types::error::{Error, ErrorCode, Result};
use crate::types::ids::KeyId;

/// The number of bytes that are read at once.
const STEP: usize = CHUNK;

/// The key, version and size of an encrypted or decrypted stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSummary {
    /// The key of the stream's data key.
    pub key: KeyId,
    /// The version of the stream's data key.
    pub version: u32,
    /// The number of bytes of plaintext.
    pub bytes: u64,
    /// The position of the operation's record in the log.
    pub receipt: Receipt,
}

/// Encrypts a stream piece by piece. The output begins with the header; without [`StreamEncryptor::finish`] the stream
/// is refused as truncated.
pub struct StreamEncryptor {
    header: Option<Vec<u8>>,
    encryptor: Encryptor,
    summary: StreamSummary,
}

impl StreamEncryptor {
    /// Takes plaintext of any length, and appends the ciphertext that is ready.
    pub fn update(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.extend(self.header.take().unwrap_or_default());
        self.summary.bytes += plaintext.len() as u64;
        self.encryptor.update(plaintext, out)
    }
    /// Appends the rest of the ciphertext and ends the stream.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<StreamSummary> {
        out.extend(self.header.take().unwrap_or_default());
        self.encryptor.finish(out)?;
        Ok(self.summary)
    }
}

/// Decrypts a stream piece by piece. All output is authenticated, but only [`StreamDecryptor::finish`] proves that
/// nothing is missing at the end.
pub struct StreamDecryptor {
    decryptor: Decryptor,
    summary: StreamSummary,
}

impl StreamDecryptor {
    /// Takes ciphertext of any length, and appends the verified plaintext that is ready. A buffer with too little
    /// capacity is replaced by a larger one and wiped.
    pub fn update(&mut self, ciphertext: &[u8], out: &mut Zeroizing<Vec<u8>>) -> Result<()> {
        let before = out.len();
        self.decryptor.update(ciphertext, out)?;
        self.summary.bytes += (out.len() - before) as u64;
        Ok(())
    }
    /// Appends the rest of the plaintext. An error means that the stream was truncated or altered: the earlier output
    /// is genuine but incomplete.
    pub fn finish(mut self, out: &mut Zeroizing<Vec<u8>>) -> Result<StreamSummary> {
        let before = out.len();
        self.decryptor.finish(out)?;
        self.summary.bytes += (out.len() - before) as u64;
        Ok(self.summary)
    }
}

impl Session {
    /// Starts to encrypt a stream under the key's current version, bound to `context`.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn encrypt_stream(&self, key: impl Into<KeyRef>, context: &Context) -> Result<StreamEncryptor> {
        let data_key = self.generate_data_key(key, DATA_KEY, context).await?;
        let secret = data_key.plaintext.unwrap_or_default();
        let provider = self.shared().provider.as_ref();
        let header = Header::new(provider, data_key.ciphertext)?;
        let encryptor = Encryptor::new(provider, &header, &secret)?;
        let summary =
            StreamSummary { key: data_key.key, version: data_key.version, bytes: 0, receipt: data_key.receipt };
        Ok(StreamEncryptor { header: Some(header.to_bytes()), encryptor, summary })
    }

    /// Starts to decrypt a stream whose first bytes are `beginning`. Returns the decryptor and the length of the
    /// header; pass the bytes after it to [`StreamDecryptor::update`]. None if more bytes are needed.
    ///
    /// Cancellation: before the operation is submitted, dropping the future does nothing; afterwards the operation is
    /// recorded and its result is lost.
    pub async fn decrypt_stream(
        &self,
        beginning: &[u8],
        context: &Context,
    ) -> Result<Option<(StreamDecryptor, usize)>> {
        let Some((header, length)) = Header::parse(beginning)? else { return Ok(None) };
        let opened = self.decrypt(&header.data_key, context).await?;
        let decryptor = Decryptor::new(self.shared().provider.as_ref(), &header, &opened.plaintext)?;
        let summary = StreamSummary { key: opened.key, version: opened.version, bytes: 0, receipt: opened.receipt };
        Ok(Some((StreamDecryptor { decryptor, summary }, length)))
    }

    /// Encrypts everything from `input` to `output`. After an error, `output` holds a part that decrypting refuses as
    /// truncated.
    ///
    /// Cancellation: dropping the future leaves a part in `output` that decrypting refuses as truncated. The data key
    /// is recorded.
    pub async fn encrypt_reader(
        &self,
        key: impl Into<KeyRef>,
        context: &Context,
        input: &mut (impl AsyncRead + Unpin),
        output: &mut (impl AsyncWrite + Unpin),
    ) -> Result<StreamSummary> {
        let mut stream = self.encrypt_stream(key, context).await?;
        let mut plaintext = Zeroizing::new(vec![0; STEP]);
        let mut ciphertext = Vec::with_capacity(2 * STEP);
        loop {
            let read = input.read(&mut plaintext).await.map_err(input_failed)?;
            if read == 0 {
                break;
            }
            stream.update(&plaintext[..read], &mut ciphertext)?;
            output.write_all(&ciphertext).await.map_err(output_failed)?;
            ciphertext.clear();
        }
        let summary = stream.finish(&mut ciphertext)?;
        output.write_all(&ciphertext).await.map_err(output_failed)?;
        output.flush().await.map_err(output_failed)?;
        Ok(summary)
    }

    /// Decrypts everything from `input` to `output`. Chunks are written after they are verified. After an error, the
    /// output is genuine but incomplete, and must not be used as if it were the whole.
    ///
    /// Cancellation: dropping the future leaves a part of the plaintext in `output`. The use of the data key is
    /// recorded.
    pub async fn decrypt_reader(
        &self,
        context: &Context,
        input: &mut (impl AsyncRead + Unpin),
        output: &mut (impl AsyncWrite + Unpin),
    ) -> Result<StreamSummary> {
        let mut buffer = vec![0; STEP];
        let mut beginning = Vec::new();
        let (mut stream, length) = loop {
            if let Some(begun) = self.decrypt_stream(&beginning, context).await? {
                break begun;
            }
            let read = input.read(&mut buffer).await.map_err(input_failed)?;
            if read == 0 {
                return Err(cut());
            }
            beginning.extend_from_slice(&buffer[..read]);
        };
        let mut plaintext = Zeroizing::new(Vec::with_capacity(2 * STEP));
        stream.update(&beginning[length..], &mut plaintext)?;
        loop {
            output.write_all(&plaintext).await.map_err(output_failed)?;
            plaintext.clear();
            let read = input.read(&mut buffer).await.map_err(input_failed)?;
            if read == 0 {
                break;
            }
            stream.update(&buffer[..read], &mut plaintext)?;
        }
        let summary = stream.finish(&mut plaintext)?;
        output.write_all(&plaintext).await.map_err(output_failed)?;
        output.flush().await.map_err(output_failed)?;
        Ok(summary)
    }
}

/// Encrypts everything from `input`, without a runtime.
pub(crate) fn pump_encryption(
    mut stream: StreamEncryptor,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<StreamSummary> {
    let mut plaintext = Zeroizing::new(vec![0; STEP]);
    let mut ciphertext = Vec::with_capacity(2 * STEP);
    loop {
        let read = read(input, &mut plaintext)?;
        if read == 0 {
            break;
        }
        stream.update(&plaintext[..read], &mut ciphertext)?;
        output.write_all(&ciphertext).map_err(output_failed)?;
        ciphertext.clear();
    }
    let summary = stream.finish(&mut ciphertext)?;
    output.write_all(&ciphertext).and_then(|()| output.flush()).map_err(output_failed)?;
    Ok(summary)
}

/// Decrypts everything from `input`, without a runtime. `begin` finds the header in the bytes read so far.
pub(crate) fn pump_decryption(
    begin: impl Fn(&[u8]) -> Result<Option<(StreamDecryptor, usize)>>,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<StreamSummary> {
    let mut buffer = vec![0; STEP];
    let mut beginning = Vec::new();
    let (mut stream, length) = loop {
        if let Some(begun) = begin(&beginning)? {
            break begun;
        }
        let read = read(input, &mut buffer)?;
        if read == 0 {
            return Err(cut());
        }
        beginning.extend_from_slice(&buffer[..read]);
    };
    let mut plaintext = Zeroizing::new(Vec::with_capacity(2 * STEP));
    stream.update(&beginning[length..], &mut plaintext)?;
    loop {
        output.write_all(&plaintext).map_err(output_failed)?;
        plaintext.clear();
        let read = read(input, &mut buffer)?;
        if read == 0 {
            break;
        }
        stream.update(&buffer[..read], &mut plaintext)?;
    }
    let summary = stream.finish(&mut plaintext)?;
    output.write_all(&plaintext).and_then(|()| output.flush()).map_err(output_failed)?;
    Ok(summary)
}

fn read(input: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match input.read(buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.map_err(input_failed),
        }
    }
}

fn cut() -> Error {
    Error::new(ErrorCode::InvalidCiphertext, "the stream is empty or ends within its header")
}

fn input_failed(error: std::io::Error) -> Error {
    Error::new(ErrorCode::InputOutput, format!("the input cannot be read: {error}")).with_source(error)
}

fn output_failed(error: std::io::Error) -> Error {
    Error::new(ErrorCode::InputOutput, format!("the output cannot be written: {error}")).with_source(error)
}
