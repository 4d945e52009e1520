"""What users run beside training: advice, benchmarks, the demo set and its pictures."""
