from dpd_cli.main import main

main()
