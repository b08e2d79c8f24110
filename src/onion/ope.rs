//! Order-preserving encryption of revision counters (rend-spec-v3, appendix F).
