"""Related methods: a student, two selections and two extractors, which come in by dpd_eval's extension points."""
