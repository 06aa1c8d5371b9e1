"""This machine: cores, driver, versions."""
