"""Images → features (`lenet_pp`), features → logits (`heads`), and layers that are fast on CPUs."""
