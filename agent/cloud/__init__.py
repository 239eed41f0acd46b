"""The platform's rules and bucket mode: identity and tags, credentials and leases, enrolment."""
