"""What people are shown of runs, evaluations, data and models: tables, pages and cards."""
