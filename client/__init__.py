"""The hospital's side: its site, its decision, its local training, and the one gate through which anything leaves."""
