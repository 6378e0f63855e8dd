"""What several test files share: contracts as kits of tests, models, programs run from outside, hostile files."""
