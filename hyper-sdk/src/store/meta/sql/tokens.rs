//! API tokens in the database of the metadata.
//!
//! Each change is one statement on a connection of its own, not of the queue: it has no part in what the store keeps, so
//! it needs neither the right to write of the whole registry nor a new version for the caches.

use super::SqlMeta;
use super::query::query;
use crate::store::Listing;
use crate::store::meta::tokens::{TokenRecord, TokenStore, token_exists};
use crate::{Digest, Error, Result};
use async_trait::async_trait;

type TokenRow = (String, String, String, String, String, i64, Option<i64>, Option<i64>, Option<String>);

impl SqlMeta {
    fn token_of(&self, row: TokenRow) -> Result<TokenRecord> {
        let (id, hash, user, name, scopes, created, expires, used, bound_to) = row;
        let read = || {
            let scopes = serde_json::from_str(&scopes)
                .map_err(|e| Error::invalid("the scopes of a token are not JSON").with_source(e))?;
            let hash = Digest::parse(&hash)?;
            let bound_to = bound_to.map(|text| Digest::parse(&text)).transpose()?;
            Ok(TokenRecord { id, hash, user, name, scopes, created, expires, used, bound_to })
        };
        read().map_err(|e| self.damaged(e))
    }
}

#[async_trait]
impl TokenStore for SqlMeta {
    async fn add_token(&self, token: &TokenRecord) -> Result<()> {
        let scopes = serde_json::to_string(&token.scopes)
            .map_err(|e| Error::internal("scopes cannot be written as JSON").with_source(e))?;
        let added = query(
            "INSERT INTO api_tokens (id, hash, user_name, name, scopes, created_at, expires_at, used_at, bound_to) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING",
        )
        .bind(token.id.as_str())
        .bind(token.hash.as_str())
        .bind(token.user.as_str())
        .bind(token.name.as_str())
        .bind(scopes.as_str())
        .bind(token.created)
        .bind(token.expires)
        .bind(token.used)
        .bind(token.bound_to.as_ref().map(Digest::as_str))
        .execute(&mut self.statement_writer().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        if added == 0 { Err(token_exists(&token.id)) } else { Ok(()) }
    }

    async fn token(&self, id: &str) -> Result<Option<TokenRecord>> {
        let row: Option<TokenRow> = query(
            "SELECT id, hash, user_name, name, scopes, created_at, expires_at, used_at, bound_to FROM api_tokens WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        row.map(|row| self.token_of(row)).transpose()
    }

    async fn tokens(&self, after: Option<&str>, limit: usize) -> Result<Listing<TokenRecord>> {
        if limit == 0 {
            return Ok(Listing { items: Vec::new(), more: false });
        }
        let mut rows: Vec<TokenRow> = query(
            "SELECT id, hash, user_name, name, scopes, created_at, expires_at, used_at, bound_to FROM api_tokens \
             WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(after.unwrap_or_default())
        .bind(limit as i64 + 1)
        .fetch_all(&mut self.reader().await?.connection())
        .await
        .map_err(|e| self.failed(e))?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let items = rows.into_iter().map(|row| self.token_of(row)).collect::<Result<_>>()?;
        Ok(Listing { items, more })
    }

    async fn remove_token(&self, id: &str) -> Result<bool> {
        let removed = query("DELETE FROM api_tokens WHERE id = $1")
            .bind(id)
            .execute(&mut self.statement_writer().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        Ok(removed != 0)
    }

    async fn touch_token(&self, id: &str, used: i64) -> Result<()> {
        query("UPDATE api_tokens SET used_at = $2 WHERE id = $1 AND (used_at IS NULL OR used_at < $2)")
            .bind(id)
            .bind(used)
            .execute(&mut self.statement_writer().await?.connection())
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    async fn trim_refresh_tokens(&self, user: &str, keep: usize, unused_since: i64) -> Result<u64> {
        query(
            "DELETE FROM api_tokens WHERE user_name = $1 AND bound_to IS NOT NULL AND \
             (CASE WHEN used_at > created_at THEN used_at ELSE created_at END < $3 OR id NOT IN \
              (SELECT id FROM api_tokens WHERE user_name = $1 AND bound_to IS NOT NULL \
               ORDER BY CASE WHEN used_at > created_at THEN used_at ELSE created_at END DESC, id LIMIT $2))",
        )
        .bind(user)
        .bind(i64::try_from(keep).unwrap_or(i64::MAX))
        .bind(unused_since)
        .execute(&mut self.statement_writer().await?.connection())
        .await
        .map_err(|e| self.failed(e))
    }
}
