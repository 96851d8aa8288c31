//! Macros that execute statements through sqlx. Its types differ by engine while its functions do not, so the common
//! code is written here once.

/// Defines for one engine: `execute`, `query`, and `Row` for the engine's rows.
///
/// `spell` turns a statement into the engine's own syntax; `null` is an untyped null value; `text` reads a text column.
macro_rules! access {
    ($database:ty, $connection:ty, $arguments:ty, $row:ty, spell: $spell:expr, null: $null:expr, text: $text:expr) => {
        fn arguments(values: Vec<Value>) -> Result<$arguments> {
            use sqlx::Arguments as _;
            let mut arguments = <$arguments>::default();
            for value in values {
                match value {
                    Value::Null => arguments.add($null),
                    Value::Int(n) => arguments.add(n),
                    Value::Text(text) => arguments.add(text),
                    Value::Ciphertext(bytes) => arguments.add(bytes),
                }
                .map_err(|e| Error::new(ErrorCode::Internal, format!("a value could not be bound: {e}")))?;
            }
            Ok(arguments)
        }

        fn statement(sql: Sql, values: Vec<Value>) -> Result<sqlx::query::Query<'static, $database, $arguments>> {
            let arguments = arguments(values)?;
            Ok(match $spell(sql) {
                Sql::Borrowed(text) => sqlx::query_with(text, arguments),
                // Assembled from fixed parts only; see `Sql`.
                Sql::Owned(text) => sqlx::query_with(sqlx::AssertSqlSafe(text), arguments),
            })
        }

        async fn execute(connection: &mut $connection, sql: Sql, values: Vec<Value>) -> Result<u64> {
            let done = statement(sql, values)?.execute(connection).await.map_err(store_error)?;
            Ok(done.rows_affected())
        }

        async fn query(
            connection: &mut $connection,
            sql: Sql,
            values: Vec<Value>,
            each: &mut EachRow<'_>,
        ) -> Result<()> {
            use futures_util::TryStreamExt;
            let mut rows = statement(sql, values)?.fetch(connection);
            while let Some(row) = rows.try_next().await.map_err(store_error)? {
                each(&SqlRow(row))?;
                // Rows arrive without waiting. A long result must not occupy a thread of the runtime until its end.
                tokio::task::coop::consume_budget().await;
            }
            Ok(())
        }

        struct SqlRow($row);

        impl Row for SqlRow {
            fn int_opt(&self, column: usize) -> Result<Option<i64>> {
                sqlx::Row::try_get(&self.0, column).map_err(undecodable)
            }
            fn text_opt(&self, column: usize) -> Result<Option<&str>> {
                $text(&self.0, column)
            }
            fn blob_opt(&self, column: usize) -> Result<Option<&[u8]>> {
                sqlx::Row::try_get(&self.0, column).map_err(undecodable)
            }
        }
    };
}

/// Defines for a server engine: `several`, which executes a text of several statements without values. `row` makes a
/// `Row` of the engine's row type.
#[cfg(any(feature = "mysql", feature = "postgres"))]
macro_rules! several {
    ($connection:ty, row: $row:expr) => {
        async fn several(connection: &mut $connection, text: String, each: &mut EachRow<'_>) -> Result<Vec<u64>> {
            use futures_util::TryStreamExt;
            // Assembled from fixed parts and literals only; see `Sql`.
            let mut steps = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).fetch_many(connection);
            let mut changed = Vec::new();
            while let Some(step) = steps.try_next().await.map_err(store_error)? {
                match step {
                    sqlx::Either::Left(done) => changed.push(done.rows_affected()),
                    sqlx::Either::Right(row) => each(&$row(row)?)?,
                }
            }
            Ok(changed)
        }
    };
}

pub(super) use access;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(super) use several;
